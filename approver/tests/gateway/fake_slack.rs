//! Drives `fake_slack.py`: a Slack that slack_sdk's own clients take for one.
use std::process::Stdio;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::python::python;
use crate::world::clear_client;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/fake_slack.py");
/// As in the program.
pub(crate) const SIGNING: &str = "8f742231b10e8888abcd99yyyzzz85a5";

pub(crate) struct FakeSlack {
    pub(crate) url: String,
    http: Client,
    _stdin: ChildStdin,
    _child: Child,
}

impl FakeSlack {
    pub(crate) async fn start() -> Self {
        let mut child = Command::new(python())
            .arg(PROGRAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).await.unwrap();
        Self {
            url: format!("http://127.0.0.1:{}", line.trim()),
            http: clear_client(),
            _stdin: child.stdin.take().unwrap(),
            _child: child,
        }
    }

    /// slack_sdk's clients find it good.
    pub(crate) async fn check(&self) {
        let output = Command::new(python())
            .args([PROGRAM, "check", &self.url])
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n");
    }

    pub(crate) async fn control(&self, verb: &str, body: &Value) -> Value {
        let url = format!("{}/_control/{verb}", self.url);
        let answer = self.http.post(url).json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{verb} {body}");
        answer.json().await.unwrap()
    }

    /// The bodies of calls of `method` so far.
    pub(crate) async fn calls(&self, method: &str) -> Vec<Value> {
        let Value::Array(all) = self.control("calls", &Value::Null).await else {
            panic!("no list");
        };
        let of_method = all.into_iter().filter(|call| call["method"] == method);
        of_method.map(|call| call["body"].clone()).collect()
    }

    /// The `count`th call of `method`, waited for.
    pub(crate) async fn call(&self, method: &str, count: usize) -> Value {
        for _ in 0..150 {
            if let Some(call) = self.calls(method).await.get(count - 1) {
                return call.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no {method} number {count}");
    }

    /// Waits until the gateway has that many sockets open.
    pub(crate) async fn connected(&self, count: u64) {
        for _ in 0..150 {
            if self.control("sockets", &Value::Null).await == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not {count} sockets");
    }

    /// `user` clicks on the message; true: it was acknowledged in time.
    pub(crate) async fn click(&self, ts: &str, action: &str, user: &str) -> bool {
        self.click_with(ts, action, user, json!({})).await["acknowledged"] == json!([true])
    }

    pub(crate) async fn click_with(
        &self,
        ts: &str,
        action: &str,
        user: &str,
        more: Value,
    ) -> Value {
        let mut asked = json!({"ts": ts, "action": format!("syshold_{action}"), "user": user});
        asked
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.control("click", &asked).await
    }

    /// What only `user` was told, waited for.
    pub(crate) async fn whisper(&self, count: usize) -> String {
        self.call("chat.postEphemeral", count).await.to_string()
    }
}
