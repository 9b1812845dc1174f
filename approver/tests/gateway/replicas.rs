//! Two gateways, as processes, over one PostgreSQL server.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rusqlite::Connection;
use serde_json::json;
use syshold_protocol::{Decision, EnrolRequest, EnrolResponse, PinnedKeys, SigningKey, dsse};
use tempfile::TempDir;

use crate::postgres::Server;
use crate::world::{Host, Person, client, problem};

struct Replica {
    dir: TempDir,
    hosts: SocketAddr,
    people: SocketAddr,
    child: Option<Child>,
}

impl Replica {
    /// A folder with settings, and with the keys of `other`.
    fn new(server: &Server, other: Option<&Self>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [hosts, people] = [0, 0].map(|_| {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .unwrap()
                .local_addr()
                .unwrap()
        });
        let text = format!(
            "dir = \"{0}\"\nhost_listen = \"{hosts}\"\npeople_listen = \"{people}\"\nmax_pending_per_agent = 100\nauto_deny_after = 0\n{1}
             [channel.deaf]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nallow_private = true\nsecret_file = \"{0}/secret\"\n",
            dir.path().display(),
            server.settings()
        );
        // Nobody listens there: every request stays untold while its gateway tries.
        let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n";
        std::fs::write(dir.path().join("secret"), secret).unwrap();
        std::fs::write(dir.path().join("approver.toml"), text).unwrap();
        for key in ["ca.key", "ca.pem", "decision.key", "witness.key"] {
            if let Some(other) = other {
                std::fs::copy(other.dir.path().join(key), dir.path().join(key)).unwrap();
            }
        }
        Self {
            dir,
            hosts,
            people,
            child: None,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syshold-approver"));
        command
            .arg("--config")
            .arg(self.dir.path().join("approver.toml"))
            .args(args)
            .env_remove("SYSHOLD_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn bad(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    async fn serve(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        self.child = Some(self.command(&["serve"]).stderr(log).spawn().unwrap());
        let start = Instant::now();
        while std::net::TcpStream::connect(self.people).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// As by a crash: SIGKILL.
    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn number(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("replica")).unwrap();
        text.trim().to_owned()
    }

    fn person(&self, token: &str) -> Person {
        Person {
            token: token.to_owned(),
            url: format!("https://{}", self.people),
            http: client(&std::fs::read(self.dir.path().join("ca.pem")).unwrap()),
        }
    }

    async fn enrol(&self) -> Host {
        let key = SigningKey::generate();
        let http = client(&std::fs::read(self.dir.path().join("ca.pem")).unwrap());
        let asked = EnrolRequest {
            token: self.good(&["enrol-token"]).parse().unwrap(),
            public_key: key.public(),
            host_name: "web-1".to_owned(),
        };
        let url = format!("https://{}", self.hosts);
        let answer = http.post(format!("{url}/v1/enrol")).json(&asked).send();
        let enrolled: EnrolResponse = answer.await.unwrap().json().await.unwrap();
        Host {
            id: enrolled.host_id,
            key,
            gateway: PinnedKeys::new(enrolled.gateway_keys),
            url,
            http,
        }
    }

    /// The ledger holds together, and has so many leaves of that kind about the request.
    fn ledger(&self, kind: &str, id: &str) -> usize {
        self.good(&["ledger", "verify"]);
        let leaves = self.good(&["ledger", "query", "--kind", kind, "--json"]);
        leaves.lines().filter(|line| line.contains(id)).count()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

#[tokio::test]
async fn two_gateways_share_a_database() {
    let server = Server::start();
    let mut a = Replica::new(&server, None);
    a.good(&["init"]);
    let mut b = Replica::new(&server, Some(&a));
    a.serve().await;
    b.serve().await;
    let bob = b.good(&["accounts", "add", "bob", "--email", "bob@example.com"]);
    let dan = a.good(&["accounts", "add", "dan", "--email", "dan@example.com"]);
    assert!(
        a.bad(&["accounts", "add", "BOB", "--email", "x@example.com"])
            .contains("exists")
    );
    let mut host = a.enrol().await;

    asked_here_answered_there(&host, &a, &b, &bob).await;
    taken_back_there_heard_here(&host, &a, &b, &bob).await;
    two_clicks_at_once(&mut host, &a, &b, (&bob, &dan)).await;
    two_votes_at_once(&host, &a, &b, (&bob, &dan)).await;
    strangers_stay_out(&server, &a);
    same_columns(&server);
    a_replica_dies(&server, &mut host, &mut a, &b, &bob).await;
    assert!(!a.log().contains("ssword") && !b.log().contains("ssword"));
}

/// A host waits at one gateway, a person answers at the other.
async fn asked_here_answered_there(host: &Host, a: &Replica, b: &Replica, bob: &str) {
    let request = host.ask().await;
    let id = request.request_id;
    let bob = b.person(bob);
    let click = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let clicked = Instant::now();
        let answer = bob.approve(id, "once").await;
        assert_eq!(answer.status(), StatusCode::OK);
        clicked
    };
    let wait = async {
        let decision = host.decision(id, "?wait=30").await;
        (decision, Instant::now())
    };
    let (clicked, (decision, told)) = tokio::join!(click, wait);
    assert!(decision.verdict.approves());
    let took = told.duration_since(clicked);
    println!("from the click at B to the answer at A: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}: nobody woke it");

    let id = id.to_string();
    assert_eq!(
        (a.ledger("request", &id), a.ledger("decision", &id)),
        (1, 0)
    );
    // Whoever records a decision has what it is about.
    assert_eq!(
        (b.ledger("request", &id), b.ledger("decision", &id)),
        (1, 1)
    );
    let outcome = host.outcome(request.request_id);
    assert_eq!(
        host.post_outcome(&outcome).await.status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        (a.ledger("decision", &id), a.ledger("outcome", &id)),
        (1, 1)
    );
    assert_eq!(b.ledger("outcome", &id), 0);
}

/// A host waits at one gateway for what is taken back, a person takes it back at the other.
async fn taken_back_there_heard_here(host: &Host, a: &Replica, b: &Replica, bob: &str) {
    let id = host.ask().await.request_id;
    let (here, there) = (a.person(bob), b.person(bob));
    assert_eq!(here.approve(id, "10m").await.status(), StatusCode::OK);
    let click = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let clicked = Instant::now();
        let reason = json!({"reason": "the wrong bucket"});
        let answer = there.post(id, "revoke", &reason).await;
        assert_eq!(answer.status(), StatusCode::OK);
        clicked
    };
    let wait = async {
        let list = host.revocations(0, 30).await;
        (list, Instant::now())
    };
    let (clicked, (list, told)) = tokio::join!(click, wait);
    let took = told.duration_since(clicked);
    println!("from taking back at B to the host at A: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}: nobody woke it");
    assert_eq!((list.entries.len(), list.latest), (1, 1));
    assert_eq!(list.entries[0].request_id, id);
    // A second time, at the other gateway: what was said first.
    let again = here.post(id, "revoke", &json!({"reason": "me too"})).await;
    let again: serde_json::Value = again.json().await.unwrap();
    assert_eq!(again["reason"], "the wrong bucket");
    assert_eq!(host.revocations(0, 0).await.latest, 1);
    let id = id.to_string();
    assert_eq!((a.ledger("revoke", &id), b.ledger("revoke", &id)), (0, 1));
    // Whoever records that has what was approved.
    assert_eq!(
        (a.ledger("decision", &id), b.ledger("decision", &id)),
        (1, 1)
    );
}

/// One person approves at one gateway while another denies at the other: one of them decides.
async fn two_clicks_at_once(host: &mut Host, a: &Replica, b: &Replica, who: (&str, &str)) {
    let (bob, dan) = (a.person(who.0), b.person(who.1));
    let mut approved = 0;
    for _ in 0..8 {
        let id = host.ask().await.request_id;
        let shown = bob.show(id).await;
        let yes = json!({"scope": "once", "rendered_sha256": shown["rendered_sha256"]});
        let no = json!({"reason": "not this one"});
        let (yes, no) = tokio::join!(bob.post(id, "approve", &yes), dan.post(id, "deny", &no));
        let won = yes.status() == StatusCode::OK;
        let (winner, loser) = if won { (yes, no) } else { (no, yes) };
        assert_eq!(winner.status(), StatusCode::OK);
        assert_eq!(problem(loser).await, (409, "decided".to_owned()));
        let mut said = Vec::new();
        for replica in [a, b] {
            host.url = format!("https://{}", replica.hosts);
            let answer = host.poll(id, "?wait=10").await;
            assert_eq!(answer.status(), StatusCode::OK);
            said.push(answer.bytes().await.unwrap());
        }
        assert_eq!(said[0], said[1], "one decision, wherever it is asked for");
        let decision = dsse::open::<Decision>(&said[0], &host.gateway)
            .unwrap()
            .value;
        assert_eq!(decision.verdict.approves(), won);
        approved += usize::from(won);
    }
    println!("two at once: {approved} of 8 approved, each decided once");
    host.url = format!("https://{}", a.hosts);
}

/// Two approvals that are both needed, one at each gateway: neither overlooks the other.
async fn two_votes_at_once(host: &Host, a: &Replica, b: &Replica, who: (&str, &str)) {
    let (bob, dan) = (a.person(who.0), b.person(who.1));
    for _ in 0..8 {
        let mut request = host.request();
        request.quorum = 2;
        assert_eq!(host.put(&request).await.status(), StatusCode::CREATED);
        let id = request.request_id;
        let shown = bob.show(id).await;
        let yes = json!({"scope": "once", "rendered_sha256": shown["rendered_sha256"]});
        let (one, other) =
            tokio::join!(bob.post(id, "approve", &yes), dan.post(id, "approve", &yes));
        assert_eq!(
            (one.status(), other.status()),
            (StatusCode::OK, StatusCode::OK)
        );
        let decision = host.decision(id, "?wait=5").await;
        assert_eq!(decision.approvers.len(), 2);
    }
}

/// Other keys, no password, a server that nobody vouches for.
fn strangers_stay_out(server: &Server, a: &Replica) {
    let other = Replica::new(server, None);
    other.good(&["init"]);
    let error = other.bad(&["serve"]);
    assert!(
        error.contains("CA") && error.contains("witness.key"),
        "{error}"
    );

    let third = Replica::new(server, Some(a));
    let path = third.dir.path().join("approver.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let without = |key: &str| {
        let kept = text.lines().filter(|line| !line.starts_with(key));
        std::fs::write(
            &path,
            kept.map(|line| format!("{line}\n")).collect::<String>(),
        )
        .unwrap();
        third.bad(&["accounts", "list"])
    };
    let error = without("ca_file");
    assert!(
        error.contains("UnknownIssuer") || error.contains("certificate"),
        "{error}"
    );
    let error = without("password_file");
    assert!(error.contains("password"), "{error}");
    // The server itself refuses whoever comes without TLS.
    std::fs::write(
        &path,
        text.replace("localhost:", "127.0.0.1:")
            .replace("/postgres\"", "/postgres?sslmode=disable\""),
    )
    .unwrap();
    let error = third.bad(&["accounts", "list"]);
    assert!(error.contains("no encryption"), "{error}");
}

/// What one database knows, the other does as well.
fn same_columns(server: &Server) {
    let dir = tempfile::tempdir().unwrap();
    drop(syshold_approver::store::Store::open(dir.path()).unwrap());
    let file = Connection::open(dir.path().join("state.db")).unwrap();
    let sql = "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c
               WHERE m.type = 'table' ORDER BY 1";
    let mut statement = file.prepare(sql).unwrap();
    let here: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let sql = "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'";
    let there = server.psql(sql).unwrap();
    let there: Vec<_> = there.lines().collect();
    assert!(here.len() > 80, "{here:?}");
    for name in here {
        assert!(there.contains(&name.as_str()), "postgres.sql lacks {name}");
    }
}

/// A gateway is killed while requests wait at it; the other one goes on with them.
async fn a_replica_dies(server: &Server, host: &mut Host, a: &mut Replica, b: &Replica, bob: &str) {
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.push(host.ask().await);
    }
    let id = requests[0].request_id;
    let path = format!("/v1/requests/{id}/decision?wait=30");
    let wait = host.signed(Method::GET, &path).send();
    let crash = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        a.kill();
    };
    let (answer, ()) = tokio::join!(wait, crash);
    assert!(answer.is_err(), "nobody answers there any more");

    // Nobody was told yet: that is for the other one to do now.
    let of_b = format!(
        "SELECT count(*) FROM request WHERE phase = 'waiting' AND keeper = {}",
        b.number()
    );
    let start = Instant::now();
    while server.psql(&of_b).unwrap() != "3" {
        assert!(start.elapsed() < Duration::from_secs(15), "{}", b.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    host.url = format!("https://{}", b.hosts);
    let bob = b.person(bob);
    for request in &requests {
        // A host that got no answer asks again, the same bytes.
        let id = request.request_id;
        assert_eq!(host.put(request).await.status(), StatusCode::OK);
        let (answer, decision) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                bob.approve(id, "once").await
            },
            host.decision(id, "?wait=30")
        );
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(decision.verdict.approves());
    }

    // What it decided and had not recorded when it died: recorded here, then handed out.
    let of_dead = |id: &str| {
        let number = a.number();
        let sql = format!(
            "UPDATE decision SET recorded = 0, keeper = {number} WHERE request_id = '{id}'"
        );
        server.psql(&sql).unwrap();
    };
    let id = id.to_string();
    assert_eq!(b.ledger("decision", &id), 1);
    of_dead(&id);
    let decision = host.decision(requests[0].request_id, "?wait=10").await;
    assert!(decision.verdict.approves());
    assert_eq!(b.ledger("decision", &id), 2);

    // Started again it finds its place free, and hears of everything.
    a.serve().await;
    assert!(a.good(&["accounts", "list"]).contains("dan@example.com"));
    host.url = format!("https://{}", a.hosts);
    let decision = host.decision(requests[1].request_id, "").await;
    assert!(decision.verdict.approves());
    // A copy of its folder, ledger and all, is not a third one.
    let copy = Replica::new(server, Some(a));
    copy_file(a.dir.path(), copy.dir.path(), "replica");
    let error = copy.bad(&["serve"]);
    assert!(
        error.contains("runs already") && error.contains("`replica`"),
        "{error}"
    );
}

fn copy_file(from: &Path, to: &Path, name: &str) {
    std::fs::copy(from.join(name), to.join(name)).unwrap();
}
