// An identity provider: npm's oidc-provider, which is certified, with an HTTPS server around it.
// Arguments: the certificate, its key, the redirect address. Prints its port. Whoever comes to
// sign in is the account that was last named at /_control; `meta` there says how discovery goes wrong.
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
import { generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const [cert, key, redirect] = process.argv.slice(2);
const control = { account: "sub-alice", groups: ["staff"], claims: {}, token: null, life: 300, meta: null };
let answer = (req, res) => res.writeHead(503).end();
const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (req, res) => answer(req, res));

server.listen(0, "127.0.0.1", () => {
  const issuer = `https://localhost:${server.address().port}`;
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const client = (client_id) => ({
    client_id,
    client_secret: "a-secret-of-the-tests-only-0123456789",
    redirect_uris: [redirect],
  });
  const provider = new Provider(issuer, {
    clients: [client("syshold"), client("other")],
    jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", kid: "one" }] },
    cookies: { keys: ["cookies-of-the-tests"] },
    claims: { openid: ["sub", "email", "preferred_username", "name"], groups: ["groups"] },
    scopes: ["openid", "groups"],
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    features: { devInteractions: { enabled: false } },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ ...control.claims, sub, groups: control.groups }) }),
    loadExistingGrant: async (ctx) => {
      const grant = new provider.Grant({
        clientId: ctx.oidc.client.clientId,
        accountId: ctx.oidc.session.accountId,
      });
      grant.addOIDCScope("openid groups");
      await grant.save();
      return grant;
    },
    ttl: { IdToken: () => control.life },
  });
  const callback = provider.callback();
  answer = async (req, res) => {
    if (req.url === "/_control") {
      let body = "";
      for await (const chunk of req) body += chunk;
      Object.assign(control, JSON.parse(body));
      return res.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(control));
    }
    if (control.meta && req.url.startsWith("/.well-known/")) {
      if (control.meta === "hang") return;
      if (control.meta === "error") return res.writeHead(500).end();
      const end = res.end.bind(res);
      res.end = (body) => {
        const more = control.meta === "huge" ? { more: "x".repeat(1 << 20) } : control.meta;
        const text = JSON.stringify({ ...JSON.parse(body), ...more });
        res.setHeader("content-length", Buffer.byteLength(text));
        return end(text);
      };
    }
    if (req.url.startsWith("/interaction/")) {
      return provider.interactionFinished(req, res, { login: { accountId: control.account } });
    }
    if (req.url === "/token" && control.token) {
      const body = JSON.stringify({ access_token: "x", token_type: "Bearer", id_token: control.token });
      return res.writeHead(200, { "content-type": "application/json" }).end(body);
    }
    return callback(req, res);
  };
  console.log(server.address().port);
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
