//! Sign-in at an identity provider that others wrote and certified: npm's `oidc-provider`, in a
//! node that comes from PyPI. Attacks are its own genuine tokens, in the wrong place or time.
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::{Value, json};
use syshold_approver::oidc::CALLBACK;
use syshold_approver::store::Store;
use syshold_protocol::Digest;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::hook::{Program, Webhook};
use crate::node::{beside, node};
use crate::world::{Person, client, now};

const PROVIDER: &str = "oidc-provider@9.13.3";
pub(crate) const SECRET: &str = "a-secret-of-the-tests-only-0123456789";
pub(crate) const INBOX: &str = "https://gw.example.com";

/// A gateway, and the provider that people sign in at.
pub(crate) struct Stage {
    pub(crate) program: Program,
    pub(crate) alice: Person,
    /// Trusts the provider.
    http: Client,
    ca: TempDir,
    pub(crate) provider: Provider,
}

/// The provider's process; it ends with its standard input.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    pub(crate) child: Child,
    /// It ends, too, when nobody reads what it prints.
    _output: BufReader<ChildStdout>,
}

impl Provider {
    /// With the certificate in that folder.
    pub(crate) async fn start(dir: &Path) -> Self {
        let program = include_str!("provider.mjs");
        let mut child = Command::new(node())
            .arg(beside("oidc", program, &[PROVIDER]))
            .args(["slack-ca.pem", "slack-key.pem"].map(|name| dir.join(name)))
            .arg(format!("{INBOX}{CALLBACK}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).await.unwrap();
        Self {
            issuer: format!("https://localhost:{}", line.trim()),
            child,
            _output: output,
        }
    }
}

/// Everything that a browser keeps.
#[derive(Default)]
pub(crate) struct Browser(pub(crate) BTreeMap<String, String>);

impl Browser {
    fn keep(&mut self, answer: &Response) {
        for set in answer.headers().get_all(SET_COOKIE) {
            let set = set.to_str().unwrap();
            let (name, rest) = set.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            if value.is_empty() || set.contains("Max-Age=0") {
                self.0.remove(name);
            } else {
                self.0.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    pub(crate) fn cookies(&self) -> String {
        let pairs: Vec<_> = self.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
        pairs.join("; ")
    }

    pub(crate) async fn get(&mut self, http: &Client, url: &str) -> Response {
        let get = http.get(url).header(COOKIE, self.cookies());
        let answer = get.send().await.unwrap();
        self.keep(&answer);
        answer
    }
}

pub(crate) fn location(answer: &Response) -> String {
    let to = answer.headers().get(LOCATION);
    let to = to.unwrap_or_else(|| panic!("{} goes nowhere", answer.status()));
    to.to_str().unwrap().to_owned()
}

pub(crate) fn query(url: &str, name: &str) -> String {
    let url = Url::parse(url).unwrap();
    let found = url.query_pairs().find(|(key, _)| key == name);
    found
        .unwrap_or_else(|| panic!("{name} in {url}"))
        .1
        .into_owned()
}

pub(crate) fn with(url: &str, name: &str, value: &str) -> String {
    let mut url = Url::parse(url).unwrap();
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let pairs = pairs.into_iter().map(|(key, old)| {
        let value = if key == name { value.to_owned() } else { old };
        (key, value)
    });
    let pairs: Vec<_> = pairs.collect();
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url.into()
}

impl Stage {
    pub(crate) async fn start(more: &str) -> Self {
        // The issuer's port has to be in the configuration, and its certificate is the hook's.
        let (hook, dir) = (Webhook::default(), tempfile::tempdir().unwrap());
        hook.start(dir.path()).await;
        let provider = Provider::start(dir.path()).await;
        let ca = std::fs::read(dir.path().join("slack-ca.pem")).unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let table = format!(
            "kind = \"teams\"\nurl_file = \"URL_FILE\"\n[oidc]\nissuer = \"{}\"\nclient_id = \"syshold\"\nclient_secret_file = \"{}\"\nname = \"Example ID\"\n{more}",
            provider.issuer,
            secret.display()
        );
        let program = Program::start_trusting(&hook, &table, &ca).await;
        // It was read at the start.
        std::fs::remove_file(secret).unwrap();
        Self {
            alice: program.person("alice").await,
            http: client(&ca),
            ca: dir,
            provider,
            program,
        }
    }

    /// Another provider, which the gateway does not know, with the same clients and people.
    pub(crate) async fn another(&self) -> Provider {
        Provider::start(self.ca.path()).await
    }

    /// `syshold-approver oidc …`; what it printed, and whether it was done.
    pub(crate) fn oidc(&self, words: &[&str]) -> (bool, String) {
        let config = self.program.dir.path().join("approver.toml");
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_syshold-approver"))
            .arg("oidc")
            .args(words)
            .arg("--config")
            .arg(config)
            .output()
            .unwrap();
        let text = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8(text).unwrap())
    }

    pub(crate) fn link(&self, subject: &str, name: &str) {
        let (done, text) = self.oidc(&["link", name, subject]);
        assert!(done, "{text}");
    }

    pub(crate) async fn control(&self, set: &Value) {
        let url = format!("{}/_control", self.provider.issuer);
        let answer = self.http.post(url).json(set).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }

    /// Begins at the gateway; where it sends the browser.
    pub(crate) async fn begin(&self, browser: &mut Browser) -> String {
        let url = format!("{}/login/oidc", self.alice.url);
        let answer = browser.get(&self.alice.http, &url).await;
        assert_eq!(
            answer.status(),
            StatusCode::SEE_OTHER,
            "{}",
            self.program.log()
        );
        location(&answer)
    }

    /// Signs in at the provider; where it sends the browser back to.
    pub(crate) async fn at_provider(&self, url: &str) -> String {
        let mut browser = Browser::default();
        let mut url = url.to_owned();
        for _ in 0..10 {
            let answer = browser.get(&self.http, &url).await;
            assert!(
                answer.status().is_redirection(),
                "{}: {}",
                answer.status(),
                answer.text().await.unwrap()
            );
            let to = location(&answer);
            url = Url::parse(&url).unwrap().join(&to).unwrap().into();
            if url.starts_with(INBOX) {
                return url;
            }
        }
        panic!("no end at the provider: {url}");
    }

    /// Back at the gateway.
    pub(crate) async fn back(&self, browser: &mut Browser, url: &str) -> Response {
        let path = url.strip_prefix(INBOX).unwrap();
        let url = format!("{}{path}", self.alice.url);
        browser.get(&self.alice.http, &url).await
    }

    pub(crate) async fn sign_in(&self, browser: &mut Browser) -> Response {
        let url = self.begin(browser).await;
        let url = self.at_provider(&url).await;
        self.back(browser, &url).await
    }

    /// The gateway lets nobody in, and says so on a page.
    pub(crate) async fn refused(&self, browser: &Browser, answer: Response, why: &str) {
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{why}");
        let page = answer.text().await.unwrap();
        assert!(
            page.contains("Not signed in") && page.contains(why),
            "{why} in {page}\n{}",
            self.program.log()
        );
        assert!(!browser.0.contains_key("__Host-syshold"), "{why}");
    }

    /// What the log says about the last of them.
    pub(crate) fn last_reason(&self) -> String {
        let log = self.program.log();
        let last = log.lines().rfind(|line| line.contains("sign-in refused"));
        last.unwrap_or_default().to_owned()
    }

    /// A genuine ID token of a provider for one of its clients, with that nonce.
    pub(crate) async fn token_of(&self, issuer: &str, client_id: &str, nonce: &str) -> String {
        let verifier = "v".repeat(43);
        let digest = Digest::of(verifier.as_bytes()).0;
        let mut url = Url::parse(&format!("{issuer}/auth")).unwrap();
        url.query_pairs_mut().extend_pairs([
            ("client_id", client_id),
            ("response_type", "code"),
            ("scope", "openid"),
            ("redirect_uri", &format!("{INBOX}{CALLBACK}")),
            ("state", "x"),
            ("nonce", nonce),
            ("code_challenge_method", "S256"),
            ("code_challenge", &URL_SAFE_NO_PAD.encode(digest)),
        ]);
        let back = self.at_provider(url.as_str()).await;
        let answer = self
            .http
            .post(format!("{issuer}/token"))
            .basic_auth(client_id, Some(SECRET))
            .form(&[
                ("grant_type", "authorization_code"),
                ("code", &query(&back, "code")),
                ("redirect_uri", &format!("{INBOX}{CALLBACK}")),
                ("code_verifier", &verifier),
            ])
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["id_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_linked_signs_in_and_nobody_else_does() {
    let stage = Stage::start("scopes = [\"groups\"]\nallowed_groups = [\"staff\", \"sre\"]").await;
    let mut browser = Browser::default();
    let login = format!("{}/login", stage.alice.url);
    let page = browser
        .get(&stage.alice.http, &login)
        .await
        .text()
        .await
        .unwrap();
    assert!(page.contains("Sign in with Example ID") && page.contains("/login/oidc"));

    // Known to the provider, and nobody here: not an account, not a session.
    let answer = stage.sign_in(&mut browser).await;
    stage.refused(&browser, answer, "sub-alice").await;

    stage.link("sub-alice", "alice");
    let url = stage.begin(&mut browser).await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "syshold"),
        ("code_challenge_method", "S256"),
        ("redirect_uri", "https://gw.example.com/login/oidc/callback"),
        ("scope", "openid groups"),
    ] {
        assert_eq!(query(&url, name), value);
    }
    let answer = stage
        .http
        .get(with(&url, "redirect_uri", &format!("{INBOX}{CALLBACK}/")));
    assert_eq!(
        answer.send().await.unwrap().status(),
        StatusCode::BAD_REQUEST,
        "another address to come back to"
    );
    let back = stage.at_provider(&url).await;
    let answer = stage.back(&mut browser, &back).await;
    assert_eq!(
        (answer.status(), location(&answer).as_str()),
        (StatusCode::SEE_OTHER, "/")
    );
    let set: Vec<_> = answer
        .headers()
        .get_all(SET_COOKIE)
        .iter()
        .map(|v| v.to_str().unwrap())
        .collect();
    assert!(
        set.iter()
            .any(|set| set.starts_with("__Host-syshold=") && set.contains("SameSite=Strict"))
    );
    let inbox = browser
        .get(&stage.alice.http, &format!("{}/", stage.alice.url))
        .await;
    assert_eq!(inbox.status(), StatusCode::OK);
    assert!(inbox.text().await.unwrap().contains("alice"));

    // The very same address again, in this browser and with a fresh sign-in's cookie.
    let mut again = Browser(browser.0.clone());
    again.0.remove("__Host-syshold");
    let answer = stage.back(&mut again, &back).await;
    stage
        .refused(&again, answer, "not begun in this browser")
        .await;

    // A group that is not let in, and one that is no list.
    for groups in [json!(["guests"]), json!({"staff": true}), Value::Null] {
        stage.control(&json!({"groups": groups})).await;
        let mut browser = Browser::default();
        let answer = stage.sign_in(&mut browser).await;
        stage.refused(&browser, answer, "groups").await;
    }
    stage.control(&json!({"groups": ["guests", "sre"]})).await;
    let answer = stage.sign_in(&mut Browser::default()).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);

    // Whoever is disabled here is nobody, whatever the provider says.
    let store = Store::open(&stage.program.dir.path().join("state")).unwrap();
    store.disable_account("alice", now()).unwrap();
    let mut browser = Browser::default();
    let answer = stage.sign_in(&mut browser).await;
    stage.refused(&browser, answer, "nobody here").await;
    let log = stage.program.log();
    for secret in [SECRET, "eyJ", &query(&back, "code")] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
}
