//! RFC 8785 bytes, for leaves: integers and strings only ([`crate::leaf::check`] refuses the rest).
//! On the way of every hold, so without the general library's buffers; `verify` reads what this
//! wrote with that library.
use std::cmp::Ordering;

use serde_json::Value;

/// One JSON object of these members, in canonical order.
pub(crate) fn object<'a>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = (&'a str, &'a Value)>,
) -> serde_json::Result<()> {
    let mut members: Vec<_> = members.collect();
    members.sort_by(|(one, _), (other, _)| order(one, other));
    out.push(b'{');
    for (i, (name, value)) in members.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        any(out, value)?;
    }
    out.push(b'}');
    Ok(())
}

fn any(out: &mut Vec<u8>, value: &Value) -> serde_json::Result<()> {
    match value {
        Value::Object(map) => {
            return object(out, map.iter().map(|(name, value)| (name.as_str(), value)));
        }
        Value::Array(list) => {
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                any(out, item)?;
            }
            out.push(b']');
        }
        scalar => serde_json::to_writer(out, scalar)?,
    }
    Ok(())
}

/// By UTF-16 code units, which is byte order but for what lies beyond the first plane.
fn order(one: &str, other: &str) -> Ordering {
    if one.is_ascii() && other.is_ascii() {
        one.cmp(other)
    } else {
        one.encode_utf16().cmp(other.encode_utf16())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_in_the_order_of_utf_16() {
        // U+10000 begins with a surrogate (D800), which is before U+E000; its bytes are after.
        let value = json!({"\u{10000}": 1, "\u{e000}": 2, "z": [], "a": {"b": -1, "B": null}});
        let mut out = Vec::new();
        any(&mut out, &value).unwrap();
        let expected = "{\"a\":{\"B\":null,\"b\":-1},\"z\":[],\"\u{10000}\":1,\"\u{e000}\":2}";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(
            serde_json_canonicalizer::to_string(&value).unwrap(),
            expected
        );
    }
}
