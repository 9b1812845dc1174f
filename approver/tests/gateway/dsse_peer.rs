//! What is signed here is read by others: `securesystemslib` verifies decisions and orders.
use serde_json::{Value, json};
use syshold_protocol::break_glass::Order;
use syshold_protocol::{DecisionId, PublicKey, SigningKey, dsse};
use uuid::Uuid;

use crate::python;
use crate::world::{World, now};

const VERIFY: &str = r#"
import json, sys
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
said = json.load(sys.stdin)
keys = [SSlibKey(key["id"], "ed25519", "ed25519", {"public": key["hex"]}) for key in said["keys"]]
envelope = Envelope.from_dict(said["envelope"])
try:
    print(len(envelope.verify(keys, said["need"])), envelope.payload_type)
except VerificationError:
    print("refused")
"#;

fn verified(envelope: &Value, keys: &[PublicKey], need: u32) -> String {
    let hex = |key: &PublicKey| -> String {
        let bytes = key.to_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let keys: Vec<_> = keys
        .iter()
        .map(|key| json!({"id": key.keyid().to_string(), "hex": hex(key)}))
        .collect();
    let said = json!({"envelope": envelope, "keys": keys, "need": need});
    python::tell(VERIFY, &[], &said.to_string())
        .trim()
        .to_owned()
}

#[tokio::test]
async fn a_decision_verifies_as_what_it_is_and_as_nothing_else() {
    let world = World::start().await;
    let host = world.host().await;
    let id = host.ask().await.request_id;
    world.person("bob", &[]).approve(id, "once").await;
    let bytes = host.poll(id, "?wait=5").await.bytes().await.unwrap();
    let mut envelope: Value = serde_json::from_slice(&bytes).unwrap();
    let kind = "application/vnd.syshold.decision.v1+json";
    let keys = host.gateway.as_slice();
    assert_eq!(verified(&envelope, keys, 1), format!("1 {kind}"));
    let other = [SigningKey::generate().public()];
    assert_eq!(verified(&envelope, &other, 1), "refused");
    envelope["payloadType"] = "application/vnd.syshold.request.v1+json".into();
    assert_eq!(verified(&envelope, keys, 1), "refused");
}

#[test]
fn an_order_of_break_glass_verifies_with_both_its_keys() {
    let (dora, erik) = (SigningKey::generate(), SigningKey::generate());
    let order = Order {
        v: 1,
        order_id: DecisionId(Uuid::new_v4()),
        host_id: "host-1".parse().unwrap(),
        agent: "support-bot".to_owned(),
        rules: vec![],
        reason: "INC-7".to_owned(),
        from: now(),
        until: now().plus(600_000),
    };
    let one = dsse::seal(&order, &dora).unwrap().envelope;
    let both = dsse::countersign::<Order>(&one, &erik).unwrap();
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let keys = [dora.public(), erik.public()];
    assert_eq!(verified(&read(&one), &keys, 2), "refused");
    assert_eq!(
        verified(&read(&both), &keys, 2),
        "2 application/vnd.syshold.break-glass.v1+json"
    );
}
