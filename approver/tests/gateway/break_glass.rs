//! What a host tells of break-glass: in the ledger, told to everybody, and due for a review.
use reqwest::{Response, StatusCode};
use serde_json::Value;
use syshold_protocol::break_glass::{MAX_REASON, Notice, Order};
use syshold_protocol::dsse;
use syshold_protocol::{DecisionId, SigningKey};
use uuid::Uuid;

use crate::evidence::leaves;
use crate::hook::{Program, Webhook};
use crate::inbox::Browser;
use crate::world::{Host, World, now, problem};

fn notice(host: &Host) -> Notice {
    Notice {
        v: 1,
        host_id: host.id.clone(),
        order: Order {
            v: 1,
            order_id: DecisionId(Uuid::new_v4()),
            host_id: host.id.clone(),
            agent: "support-bot".to_owned(),
            rules: vec!["pii-read".to_owned()],
            reason: "INC-7: <b>the</b> gateway is down".to_owned(),
            from: now(),
            until: now().plus(600_000),
        },
        signers: vec![
            "dora@example.com".parse().unwrap(),
            "erik@example.com".parse().unwrap(),
        ],
        groups: vec!["privacy".to_owned()],
        at: now(),
    }
}

async fn tell_with(host: &Host, key: &SigningKey, notice: &Notice) -> Response {
    let bytes = dsse::seal(notice, key).unwrap().envelope;
    let url = format!("{}/v1/break-glass", host.url);
    host.http.post(url).body(bytes).send().await.unwrap()
}

async fn tell(host: &Host, notice: &Notice) -> Response {
    tell_with(host, &host.key, notice).await
}

fn form_token(page: &str) -> String {
    let at = page.split("name=\"csrf\" value=\"").nth(1).unwrap();
    at.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn it_stays_in_everybodys_inbox_until_somebody_else_has_reviewed_it() {
    let world = World::start().await;
    let host = world.host().await;
    let dora = Browser::sign_in(&world.person("dora", &[])).await;
    let bob = Browser::sign_in(&world.person("bob", &["privacy"])).await;
    assert!(!bob.text("/").await.contains("Break-glass"));

    let notice = notice(&host);
    for _ in 0..2 {
        assert_eq!(tell(&host, &notice).await.status(), StatusCode::NO_CONTENT);
    }
    let page = bob.text("/").await;
    for fact in [
        "Break-glass: what support-bot asked on web-1 was let through",
        "dora@example.com, erik@example.com",
        "INC-7: &lt;b&gt;the&lt;/b&gt; gateway is down",
    ] {
        assert!(page.contains(fact), "{fact} in {page}");
    }
    assert_eq!(page.matches("Break-glass:").count(), 1);

    let path = format!("/break-glass/{}/review", notice.order.order_id);
    let hers = dora.text("/").await;
    assert!(hers.contains("by somebody who did not sign it"));
    let csrf = form_token(&hers);
    let own = dora
        .post(&path, &[("csrf", &csrf), ("review", "fine")])
        .await;
    assert_eq!(own.status(), StatusCode::FORBIDDEN);

    let csrf = form_token(&page);
    let empty = bob.post(&path, &[("csrf", &csrf), ("review", " ")]).await;
    assert_eq!(empty.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let forged = bob.post(&path, &[("csrf", "x"), ("review", "fine")]).await;
    assert_eq!(forged.status(), StatusCode::FORBIDDEN);
    let done = bob
        .post(&path, &[("csrf", &csrf), ("review", "one export, right")])
        .await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(!bob.text("/").await.contains("Break-glass"));
    let again = bob
        .post(&path, &[("csrf", &csrf), ("review", "fine")])
        .await;
    assert_eq!(again.status(), StatusCode::NOT_FOUND);

    let dir = world.stop().await;
    let leaves = leaves(dir.path());
    let of = |kind: &str| -> Vec<Value> {
        let all = leaves.iter().filter(|leaf| leaf["kind"] == kind);
        all.cloned().collect()
    };
    let (broken, reviewed) = (of("break_glass"), of("review"));
    assert_eq!((broken.len(), reviewed.len()), (1, 1));
    let id = notice.order.order_id.to_string();
    assert_eq!(broken[0]["decision_id"], id.as_str());
    assert_eq!(broken[0]["asker"]["host_id"], host.id.as_str());
    assert_eq!(broken[0]["signers"][1], "erik@example.com");
    assert_eq!(reviewed[0]["decision_id"], id.as_str());
    assert_eq!(reviewed[0]["by"], "bob@example.com");
    assert_eq!(reviewed[0]["review"], "one export, right");
}

#[tokio::test]
async fn only_the_host_itself_tells_of_its_own_orders_and_not_without_end() {
    let world = World::start().await;
    let (host, other) = (world.host().await, world.host().await);
    let good = notice(&host);
    let word = |answer| async { problem(answer).await };
    let stranger = tell_with(&host, &SigningKey::generate(), &good).await;
    assert_eq!(word(stranger).await, (401, "bad-signature".to_owned()));
    let copied = tell_with(&host, &other.key, &good).await;
    assert_eq!(word(copied).await, (401, "bad-signature".to_owned()));
    let mut of_other = notice(&host);
    of_other.order.host_id = other.id.clone();
    let mut long = notice(&host);
    long.order.reason = "x".repeat(MAX_REASON + 1);
    let mut nobody = notice(&host);
    nobody.order.agent = String::new();
    for bad in [of_other, long, nobody] {
        let refused = tell(&host, &bad).await;
        assert_eq!(word(refused).await, (422, "unacceptable".to_owned()));
    }
    // An order id that was seen elsewhere hides nothing.
    assert_eq!(tell(&host, &good).await.status(), StatusCode::NO_CONTENT);
    let mut taken = notice(&other);
    taken.order.order_id = good.order.order_id;
    assert_eq!(word(tell(&other, &taken).await).await.0, 429);

    for _ in 1..64 {
        let more = tell(&host, &notice(&host)).await;
        assert_eq!(more.status(), StatusCode::NO_CONTENT);
    }
    let more = tell(&host, &notice(&host)).await;
    assert_eq!(more.headers()["retry-after"], "3600");
    assert_eq!(word(more).await, (429, "too-many-orders".to_owned()));
    let others = tell(&other, &notice(&other)).await;
    assert_eq!(others.status(), StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_channel_of_those_who_would_have_been_asked_is_told_once() {
    let (hook, table) = (
        Webhook::default(),
        "kind = \"teams\"\nurl_file = \"URL_FILE\"\n[notify]\ndefault = [\"ops\"]\nprivacy = [\"ops\"]\n[[group]]\nname = \"privacy\"\nescalate_after = \"2m\"\nescalate_to = [\"leads\"]",
    );
    let program = Program::start(&hook, table).await;
    let notice = notice(&program.host);
    for _ in 0..2 {
        let told = tell(&program.host, &notice).await;
        assert_eq!(told.status(), StatusCode::NO_CONTENT, "{}", program.log());
    }
    let text = hook.wait_for(1).await[0].1.to_string();
    for fact in [
        "BREAK-GLASS on web-1",
        "support-bot",
        "INC-7",
        "erik@example.com",
    ] {
        assert!(text.contains(fact), "{fact} in {text}");
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(hook.got.lock().unwrap().len(), 1);
    assert!(program.log().contains("BREAK-GLASS"));
}
