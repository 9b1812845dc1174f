// What a browser has to do itself: passkeys, pages that change when something does, keys.
// Everything but passkeys works without this script, too.
"use strict";

const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
    credentials: "same-origin",
  });
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.detail || value.title || "The gateway did not answer (" + answer.status + ").");
  return value;
}

// Says in the page what went wrong; a person who cancels is told what to do, not scolded.
function say(error) {
  const place = document.querySelector("[data-say]");
  if (!place) return;
  const cancelled = error.name === "NotAllowedError";
  place.textContent = cancelled
    ? "Your passkey was not used: it was cancelled, took too long, or is not on this device. Try again when you are ready."
    : error.message;
  place.hidden = false;
  place.focus();
}

const descriptors = (ids) => ids.map((id) => ({ type: "public-key", id: bytes(id) }));

async function sign(asking) {
  const credential = await navigator.credentials.get({
    publicKey: {
      challenge: bytes(asking.challenge),
      rpId: asking.rp_id,
      allowCredentials: descriptors(asking.known),
      userVerification: "required",
      timeout: 120000,
    },
  });
  return {
    credential_id: text(credential.rawId),
    nonce: asking.nonce,
    assertion: {
      authenticator_data: text(credential.response.authenticatorData),
      client_data_json: text(credential.response.clientDataJSON),
      signature: text(credential.response.signature),
    },
  };
}

// Runs `work` once at a time, with the button showing that it does.
function busy(button, work) {
  button.disabled = true;
  return work().catch(say).finally(() => { button.disabled = false; });
}

function registration(form) {
  const link = location.hash.slice(1);
  if (!link) {
    say(new Error("This link is not whole. Open it again exactly as you were sent it."));
    return;
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(form.querySelector("button"), async () => {
      const asked = await post("/passkeys/register", { link });
      const credential = await navigator.credentials.create({
        publicKey: {
          challenge: bytes(asked.challenge),
          rp: { id: asked.rp_id, name: "Syshold" },
          user: { id: bytes(asked.user_id), name: asked.email, displayName: asked.account },
          pubKeyCredParams: [{ type: "public-key", alg: -7 }, { type: "public-key", alg: -8 }],
          excludeCredentials: descriptors(asked.known),
          authenticatorSelection: { residentKey: "required", userVerification: "required" },
          attestation: "none",
          timeout: 120000,
        },
      });
      const created = {
        label: form.elements.label.value,
        authenticator_data: text(credential.response.getAuthenticatorData()),
        client_data_json: text(credential.response.clientDataJSON),
      };
      const added = await post("/passkeys/registered", { link, created });
      history.replaceState(null, "", location.pathname);
      form.hidden = true;
      document.querySelector("[data-done]").hidden = false;
      document.querySelector("[data-pin]").textContent = added.pin;
      document.querySelector("[data-done] h2").focus();
    });
  });
}

function signIn(button) {
  button.hidden = false;
  button.addEventListener("click", () =>
    busy(button, async () => {
      await post("/login/signed", await sign(await post("/login/passkey", {})));
      location.assign(button.dataset.next);
    }));
}

// Signs what is shown, then lets the form go the way every form goes.
function approval(form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = event.submitter;
    busy(button, async () => {
      const value = (name) => form.elements[name].value;
      const asking = await post(form.dataset.passkey, {
        csrf: value("csrf"),
        scope: button.value === "minutes" ? value("minutes").trim() + "m" : button.value,
        rendered_sha256: value("rendered_sha256"),
      });
      form.elements.proof.value = JSON.stringify(await sign(asking));
      const scope = document.createElement("input");
      scope.type = "hidden";
      scope.name = "scope";
      scope.value = button.value;
      form.append(scope);
      form.submit();
    });
  });
}

if (window.PublicKeyCredential) {
  document.querySelectorAll("form[data-passkey]").forEach(approval);
  document.querySelectorAll("form[data-register]").forEach(registration);
  document.querySelectorAll("button[data-sign-in]").forEach(signIn);
} else if (document.querySelector("[data-register], form[data-passkey]")) {
  say(new Error("This browser has no passkeys. Use one that has, such as the one of your phone."));
}

// ---- pages that change by themselves ----

// Takes over from a fresh copy of this page whatever part of it is different. What somebody is typing
// into is left alone; the server refuses an answer to what has changed, anyhow.
async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
  if (!answer.ok || answer.redirected) return location.reload();
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-part]")) {
    const next = fresh.getElementById(part.id);
    if (!next || bare(next) === bare(part)) continue;
    const inside = part.contains(document.activeElement) ? document.activeElement : null;
    if (inside && inside.matches("input") && inside.value) continue;
    const news = next.dataset.news !== part.dataset.news && next.dataset.news;
    const same = (one) => (inside.id ? one.id === inside.id : one.href && one.href === inside.href);
    part.replaceWith(next);
    if (inside) [...next.querySelectorAll("a, button, input, summary")].find(same)?.focus();
    if (news) document.getElementById("news").textContent = news;
    next.querySelectorAll("form[data-passkey]").forEach(approval);
  }
  document.title = fresh.title;
  tick();
}

// A countdown is no difference.
const bare = (part) => part.outerHTML.replace(/<time [^>]*>[^<]*<\/time>/g, "").replace(/\d+ (s|min|h|d) ago/g, "");

function tick() {
  for (const time of document.querySelectorAll("time[data-until]")) {
    const seconds = Math.max(0, Math.floor((Number(time.dataset.until) - Date.now()) / 1000));
    const two = (n) => String(n).padStart(2, "0");
    time.textContent =
      seconds < 60 ? seconds + " s"
      : seconds < 3600 ? Math.floor(seconds / 60) + " min " + two(seconds % 60) + " s"
      : Math.floor(seconds / 3600) + " h " + two(Math.floor((seconds % 3600) / 60)) + " min";
  }
}

function watch(path) {
  const events = new EventSource(path);
  events.addEventListener("changed", () => refresh().catch(() => {}));
  // Proxies cut such streams; then this page looks now and again.
  setInterval(() => { if (events.readyState !== EventSource.OPEN) refresh().catch(() => {}); }, 15000);
  setInterval(tick, 1000);
  tick();
}

// ---- keys ----

function move(step) {
  const rows = [...document.querySelectorAll("[data-row]")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step))].focus();
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  a: () => document.querySelector("[data-approve]")?.focus(),
  d: () => {
    const deny = document.querySelector("[data-deny]");
    if (deny) { deny.open = true; deny.querySelector("input[name=reason]").focus(); }
  },
  u: () => document.querySelector("[data-back]")?.click(),
  "/": () => document.getElementById("q")?.focus(),
  "?": () => document.getElementById("keys").showModal(),
};

function listen() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    if (document.querySelector("dialog[open]") || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}

if (document.body.dataset.live) {
  watch(document.body.dataset.live);
  listen();
}
