//! Checks OCSF events against the sources of the schema.
use std::path::PathBuf;

use serde_json::{Value, json};

/// The sources of the schema, as far as our events use them.
pub(crate) struct Schema(pub(crate) PathBuf);

impl Schema {
    pub(crate) fn read(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.0.join(path)).ok()?).ok()
    }

    /// The attributes of a class or object with those it inherits and includes; the nearest says
    /// what it is, and what is required anywhere is required.
    pub(crate) fn attributes(
        &self,
        kind: &str,
        name: &str,
        profiles: &[String],
    ) -> serde_json::Map<String, Value> {
        let found = if kind == "events" {
            ["", "system/", "network/"]
                .iter()
                .find_map(|dir| self.read(&format!("events/{dir}{name}.json")))
        } else {
            self.read(&format!("objects/{name}.json"))
        };
        let found = found.unwrap_or_else(|| panic!("no {kind} {name}"));
        let mut all = match found["extends"].as_str() {
            Some(parent) => self.attributes(kind, parent, profiles),
            None => serde_json::Map::new(),
        };
        let own = found["attributes"].as_object().cloned().unwrap_or_default();
        for include in own
            .get("$include")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let path = include.as_str().expect("a path");
            let profile = self.read(path).expect("a profile");
            let wanted = profiles.iter().any(|wanted| profile["name"] == **wanted);
            if path.starts_with("profiles/") && !wanted {
                continue;
            }
            for (name, value) in profile["attributes"].as_object().expect("attributes") {
                merge(&mut all, name, value);
            }
        }
        for (name, value) in own.iter().filter(|(name, _)| *name != "$include") {
            merge(&mut all, name, value);
        }
        if kind == "objects" && name != "object" {
            for one in found["constraints"]["at_least_one"]
                .as_array()
                .into_iter()
                .flatten()
            {
                all.entry("at_least_one")
                    .or_insert_with(|| json!([]))
                    .as_array_mut()
                    .expect("a list")
                    .push(one.clone());
            }
        }
        all
    }

    pub(crate) fn check(
        &self,
        at: &str,
        value: &Value,
        attributes: &serde_json::Map<String, Value>,
        profiles: &[String],
    ) {
        let dictionary = self.read("dictionary.json").expect("a dictionary");
        for (name, attribute) in attributes {
            if attribute["requirement"] == "required" {
                assert!(!value[name].is_null(), "{at}.{name} is required: {value}");
            }
        }
        if let Some(list) = attributes.get("at_least_one").and_then(Value::as_array) {
            let any = list
                .iter()
                .any(|name| !value[name.as_str().expect("a name")].is_null());
            assert!(any, "{at} needs one of {list:?}: {value}");
        }
        for (name, inner) in value.as_object().expect("an object") {
            let at = format!("{at}.{name}");
            let known = attributes
                .get(name)
                .unwrap_or_else(|| panic!("{at} is no attribute"));
            let entry = &dictionary["attributes"][name];
            let kind = known["type"]
                .as_str()
                .or(entry["type"].as_str())
                .unwrap_or_else(|| panic!("{at} has no type"));
            let items: Vec<&Value> = match (entry["is_array"] == true, inner) {
                (true, Value::Array(items)) => items.iter().collect(),
                (true, other) => panic!("{at} is a list: {other}"),
                (false, one) => vec![one],
            };
            for item in items {
                self.check_type(&at, item, kind, known, entry, profiles);
            }
        }
    }

    fn check_type(
        &self,
        at: &str,
        item: &Value,
        kind: &str,
        known: &Value,
        entry: &Value,
        profiles: &[String],
    ) {
        match kind {
            "string_t" | "hostname_t" | "ip_t" | "file_path_t" | "file_name_t"
            | "process_name_t" | "username_t" | "url_t" | "uuid_t" => {
                assert!(item.is_string(), "{at}: {item}");
            }
            "integer_t" | "long_t" | "timestamp_t" | "port_t" => {
                assert!(item.is_i64() || item.is_u64(), "{at}: {item}");
                let listed: Vec<&Value> = [&known["enum"], &entry["enum"]]
                    .into_iter()
                    .filter(|list| list.is_object())
                    .collect();
                let number = item.to_string();
                // The first two are made of the class, which is checked on its own.
                let derived = at.ends_with(".class_uid") || at.ends_with(".category_uid");
                let base = derived || ["0", "99"].contains(&number.as_str());
                assert!(
                    listed.is_empty() || base || listed.iter().any(|list| !list[&number].is_null()),
                    "{at}: {number} is not listed"
                );
            }
            "boolean_t" => assert!(item.is_boolean(), "{at}: {item}"),
            "object" | "json_t" => assert!(item.is_object(), "{at}: {item}"),
            object => {
                let attributes = self.attributes("objects", object, profiles);
                self.check(at, item, &attributes, profiles);
            }
        }
    }
}

fn merge(all: &mut serde_json::Map<String, Value>, name: &str, value: &Value) {
    let entry = all.entry(name.to_owned()).or_insert_with(|| json!({}));
    if let (Some(entry), Some(value)) = (entry.as_object_mut(), value.as_object()) {
        for (key, value) in value.iter().filter(|(_, value)| !value.is_null()) {
            match (
                entry.get_mut(key).and_then(Value::as_object_mut),
                value.as_object(),
            ) {
                (Some(old), Some(new)) => old.extend(new.clone()),
                _ => drop(entry.insert(key.clone(), value.clone())),
            }
        }
    }
}
