//! Leaves as OCSF 1.8.0 events, for a SIEM: a decision is an event of its action's class with the
//! profile `security_control`, every other leaf a base event. The leaf stays the evidence: its index
//! is `metadata.sequence`, its hash is under `unmapped`.
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::clock;
use crate::reader::Leaf;
use crate::record::Record;

/// The version of the schema.
pub const VERSION: &str = "1.8.0";

/// Class, category and activity.
struct Class {
    uid: u32,
    name: &'static str,
    category: u32,
    category_name: &'static str,
    activity: u32,
    activity_name: String,
}

impl Class {
    fn of(record: &Record) -> Self {
        let system = |uid, name, activity, activity_name: &str| Self {
            uid,
            name,
            category: 1,
            category_name: "System Activity",
            activity,
            activity_name: activity_name.to_owned(),
        };
        let network = |activity, activity_name: &str| Self {
            uid: 4001,
            name: "Network Activity",
            category: 4,
            category_name: "Network Activity",
            activity,
            activity_name: activity_name.to_owned(),
        };
        let base = || Self {
            uid: 0,
            name: "Base Event",
            category: 0,
            category_name: "Uncategorized",
            activity: 99,
            activity_name: record.kind.clone(),
        };
        if record.kind != "decision" {
            return base();
        }
        // Who may write may do more than who may read.
        let ops: Vec<&str> = record.op.split([',', ' ', '+', '|']).collect();
        let has = |op: &str| ops.contains(&op);
        let file = |activity, name| system(1001, "File System Activity", activity, name);
        match () {
            () if has("connect") => network(1, "Open"),
            () if has("send") => network(6, "Traffic"),
            () if has("listen") => network(7, "Listen"),
            () if has("delete") => file(4, "Delete"),
            () if has("write") => file(3, "Update"),
            () if has("read") => file(2, "Read"),
            () if has("open") => file(14, "Open"),
            () if has("exec") => system(1007, "Process Activity", 1, "Launch"),
            () if has("privilege") => system(1007, "Process Activity", 5, "Set User ID"),
            () => base(),
        }
    }
}

/// Action and disposition of a decision.
fn disposition(record: &Record) -> (u32, &'static str, u32, &'static str) {
    let allowed = record.verdict == "allow";
    match (allowed, record.by.as_str()) {
        (true, "human" | "break_glass") => (1, "Allowed", 8, "Approved"),
        (true, _) => (1, "Allowed", 1, "Allowed"),
        (false, "human") => (2, "Denied", 25, "Rejected"),
        (false, "error") => (2, "Denied", 27, "Error"),
        // What no rule of the policy names.
        (false, "policy") if record.rule.is_empty() || record.rule.starts_with("default") => {
            (2, "Denied", 26, "Unauthorized")
        }
        (false, _) => (2, "Denied", 2, "Blocked"),
    }
}

/// One leaf as an event.
pub fn event(leaf: &Leaf) -> Value {
    let (value, record) = (leaf.value(), Record::of(leaf));
    let class = Class::of(&record);
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| {
        event.insert(name.to_owned(), value);
    };
    put("class_uid", class.uid.into());
    put("class_name", class.name.into());
    put("category_uid", class.category.into());
    put("category_name", class.category_name.into());
    put("activity_id", class.activity.into());
    put("activity_name", class.activity_name.clone().into());
    put("type_uid", (class.uid * 100 + class.activity).into());
    put(
        "type_name",
        format!("{}: {}", class.name, class.activity_name).into(),
    );
    let time = clock::parse(&record.t).map_or(0, jiff::Timestamp::as_millisecond);
    put("time", time.into());
    put("timezone_offset", 0.into());
    let decided = record.kind == "decision";
    let (severity, severity_name) = severity(&record);
    put("severity_id", severity.into());
    put("severity", severity_name.into());
    put("message", message(&record).into());
    put("metadata", metadata(leaf, &record, class.uid));
    put("unmapped", unmapped(leaf, &value, &record));
    if !decided {
        return event.into();
    }
    let (action, action_name, disposed, disposed_name) = disposition(&record);
    put("action_id", action.into());
    put("action", action_name.into());
    put("disposition_id", disposed.into());
    put("disposition", disposed_name.into());
    put("is_alert", (action == 2).into());
    let status = if action == 1 {
        (1, "Success")
    } else {
        (2, "Failure")
    };
    put("status_id", status.0.into());
    put("status", status.1.into());
    if !record.cause.is_empty() {
        put("status_detail", record.cause.clone().into());
    }
    if let Some(sha256) = value["policy"]["sha256"].as_str() {
        let name = if record.rule.is_empty() {
            "policy"
        } else {
            &record.rule
        };
        put(
            "policy",
            json!({"uid": sha256, "name": name, "desc": record.why, "is_applied": true}),
        );
    }
    put("actor", actor(&value, &record));
    put("device", device(&value));
    match class.uid {
        1001 => put("file", file(&value, &record)),
        4001 => put("dst_endpoint", endpoint(&value)),
        1007 => put("process", process(&value, &record)),
        _ => {}
    }
    event.into()
}

fn severity(record: &Record) -> (u32, &'static str) {
    match record.kind.as_str() {
        "gap" | "degraded" | "break_glass" => (4, "High"),
        "decision" if record.by == "break_glass" => (4, "High"),
        "decision" if record.verdict == "deny" => (3, "Medium"),
        "decision" if record.by == "human" => (2, "Low"),
        _ => (1, "Informational"),
    }
}

fn message(record: &Record) -> String {
    let mut parts = vec![record.kind.as_str()];
    parts.extend(
        [
            record.verdict.as_str(),
            &record.agent,
            &record.op,
            &record.object,
            &record.result,
        ]
        .into_iter()
        .filter(|part| !part.is_empty()),
    );
    parts.join(" ")
}

fn metadata(leaf: &Leaf, record: &Record, class: u32) -> Value {
    // A network event has its actor and device from the profile `host`.
    let profiles: &[&str] = match (record.kind.as_str(), class) {
        ("decision", 4001 | 0) => &["security_control", "host"],
        ("decision", _) => &["security_control"],
        _ => &[],
    };
    let mut metadata = json!({
        "version": VERSION,
        "product": {
            "name": "Syshold",
            "vendor_name": "Syshold",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "log_name": "ledger",
        "event_code": record.kind,
        "sequence": leaf.idx,
        "profiles": profiles,
        "labels": record.labels,
    });
    if let Some(id) = leaf.value()["id"].as_str() {
        metadata["uid"] = id.into();
    }
    if !record.request.is_empty() {
        metadata["correlation_uid"] = record.request.clone().into();
    }
    metadata
}

/// What OCSF has no place for, under our own names.
fn unmapped(leaf: &Leaf, value: &Value, record: &Record) -> Value {
    let mut unmapped = json!({
        "leaf_hash": leaf.hash.to_string(),
        "by": record.by,
        "approvers": value["approvers"],
        "agent": value["agent"],
        "hold": record.hold,
    });
    for name in [
        "outcome", "gap", "degraded", "step", "keys", "redact", "prune", "order",
    ] {
        if !value[name].is_null() {
            unmapped[name] = value[name].clone();
        }
    }
    if let Some(map) = unmapped.as_object_mut() {
        map.retain(|_, value| !value.is_null() && value != "");
    }
    unmapped
}

fn process(value: &Value, record: &Record) -> Value {
    let process = &value["process"];
    let pid = process["pid"].as_u64().or(value["pid"].as_u64());
    let path = process["exe"].as_str().unwrap_or_default();
    let name = path.rsplit('/').next().filter(|name| !name.is_empty());
    let name = name.or(value["comm"].as_str()).unwrap_or(&record.agent);
    let mut out = json!({"name": name, "pid": pid.unwrap_or(0)});
    if !path.is_empty() {
        out["path"] = path.into();
    }
    let argv: Option<Vec<_>> = process["argv"]
        .as_array()
        .map(|argv| argv.iter().filter_map(Value::as_str).collect());
    if let Some(argv) = argv.filter(|argv| !argv.is_empty()) {
        out["cmd_line"] = argv.join(" ").into();
    }
    out
}

fn actor(value: &Value, record: &Record) -> Value {
    let mut actor = json!({"process": process(value, record), "app_name": record.agent});
    if let Some(uid) = value["initiator"]["uid"].as_u64() {
        actor["user"] = json!({"uid": uid.to_string()});
    }
    actor
}

fn device(value: &Value) -> Value {
    let host = value["host"].as_str().unwrap_or("unknown");
    json!({"hostname": host, "name": host, "type_id": 1, "type": "Server"})
}

fn file(value: &Value, record: &Record) -> Value {
    let path = value["object"]["path"].as_str().unwrap_or_default();
    let name = path.rsplit('/').next().filter(|name| !name.is_empty());
    let mut file = json!({
        "name": name.unwrap_or(&record.object),
        "type_id": 1,
        "type": "Regular File",
    });
    if !path.is_empty() {
        file["path"] = path.into();
    }
    let (dev, ino) = (
        value["object"]["dev"].as_str(),
        value["object"]["ino"].as_str(),
    );
    if let (Some(dev), Some(ino)) = (dev, ino) {
        file["uid"] = format!("{dev}:{ino}").into();
    }
    file
}

fn endpoint(value: &Value) -> Value {
    let addr = value["object"]["addr"].as_str().unwrap_or_default();
    let mut endpoint = match addr.parse::<SocketAddr>() {
        Ok(addr) => json!({"ip": addr.ip().to_string(), "port": addr.port()}),
        Err(_) => json!({"name": if addr.is_empty() { "unknown" } else { addr }}),
    };
    if let Some(host) = value["object"]["host"].as_str() {
        endpoint["hostname"] = host.into();
    }
    endpoint
}
