//! Orders for emergencies, from the keys of two people to the daemon.
use std::os::unix::fs::PermissionsExt as _;

use syshold_agent::control::{Call, Reply};
use syshold_protocol::break_glass::{self, Terms};
use syshold_protocol::{PublicKey, Subject};
use tokio::sync::mpsc;

use super::{Daemon, code, err, out};

fn key_in(line: &str) -> PublicKey {
    line.split('"').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_order_is_signed_by_two_and_brought_to_the_daemon() {
    let (seen, mut orders) = mpsc::unbounded_channel();
    let daemon = Daemon::start(move |asked| match &asked.call {
        Call::BreakGlass { order } => {
            seen.send(order.clone()).unwrap();
            let text = "In force.\u{1b}[2J".to_owned();
            asked.answer(Reply::Done { text });
        }
        Call::BreakGlassEnd => asked.answer(Reply::Done {
            text: "Ended: 1.".to_owned(),
        }),
        other => panic!("{other:?}"),
    });
    let path = |name: &str| daemon.dir.path().join(name).display().to_string();
    let mut keys = Vec::new();
    for name in ["dora", "erik"] {
        let made = daemon
            .syshold(&["break-glass", "key", "--out", &path(name)])
            .await;
        let subject: Subject = format!("{name}@example.com").parse().unwrap();
        keys.push((subject, key_in(out(&made))));
        let mode = std::fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = daemon
        .syshold(&["break-glass", "key", "--out", &path("dora")])
        .await;
    assert_eq!(code(&again), Some(1), "a key is never overwritten");

    let (dora, erik, order) = (path("dora"), path("erik"), path("order"));
    let write = [
        "break-glass",
        "order",
        "--agent",
        "bot",
        "--rule",
        "pii-read",
        "--host",
        "host-1",
        "--minutes",
        "10",
        "--reason",
        "INC-7",
        "--key",
        &dora,
        "--out",
        &order,
    ];
    let written = daemon.syshold(&write).await;
    assert_eq!(code(&written), Some(0), "{}", err(&written));
    let long = write.map(|word| if word == "10" { "16" } else { word });
    assert_eq!(code(&daemon.syshold(&long).await), Some(2));
    let host_id = "host-1".parse().unwrap();
    let judged = |envelope: &[u8]| {
        let terms = Terms {
            host_id: &host_id,
            keys: &keys,
        };
        let now = std::time::SystemTime::now().into();
        break_glass::accept(envelope, &terms, now, &|_| false, &|_, _| false)
    };
    let one = std::fs::read(&order).unwrap();
    assert!(judged(&one).is_err(), "one person alone");

    let signed = daemon
        .syshold(&["break-glass", "countersign", &order, "--key", &erik])
        .await;
    assert_eq!(code(&signed), Some(0), "{}", err(&signed));
    for fact in ["bot", "pii-read", "INC-7", "host-1"] {
        assert!(out(&signed).contains(fact), "the second one sees {fact}");
    }
    let used = daemon.syshold(&["break-glass", "use", &order]).await;
    assert_eq!(code(&used), Some(0), "{}", err(&used));
    assert!(out(&used).contains("In force.") && !out(&used).contains("\u{1b}[2J"));
    let accepted = judged(orders.recv().await.unwrap().as_bytes()).unwrap();
    assert_eq!(accepted.signers.len(), 2);
    assert_eq!(accepted.order.rules, ["pii-read"]);
    assert!((9 * 60_000..=10 * 60_000).contains(&accepted.ttl_ms));

    let ended = daemon.syshold(&["break-glass", "end"]).await;
    assert!(out(&ended).contains("Ended: 1."));
    let garbage = daemon.syshold(&["break-glass", "use", &dora]).await;
    assert_eq!(code(&garbage), Some(1), "a key is no order");
    assert!(!err(&garbage).contains("PRIVATE"));
}
