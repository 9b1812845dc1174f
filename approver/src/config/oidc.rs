//! `[oidc]`: the identity provider people may sign in at.
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use crate::oidc::Settings;

const DEFAULT_CLAIM: &str = "groups";
/// More than so many scopes or groups is a mistake.
const MOST: usize = 64;

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOidc {
    issuer: Spanned<String>,
    client_id: Spanned<String>,
    client_secret_file: Option<Spanned<PathBuf>>,
    name: Option<Spanned<String>>,
    #[serde(default)]
    scopes: Vec<Spanned<String>>,
    allowed_groups: Option<Spanned<Vec<String>>>,
    groups_claim: Option<String>,
}

pub(super) fn settings(
    raw: Option<RawOidc>,
    at: &impl Fn(Range<usize>, String, &'static str) -> ConfigError,
) -> Result<Option<Settings>, ConfigError> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    let url = raw.issuer.get_ref();
    let good = reqwest::Url::parse(url).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if !good {
        return Err(at(
            raw.issuer.span(),
            "not an https:// issuer".to_owned(),
            "copy `issuer` from the provider's /.well-known/openid-configuration, to the letter",
        ));
    }
    if raw.client_id.get_ref().is_empty() {
        return Err(at(
            raw.client_id.span(),
            "no client".to_owned(),
            "write the id under which the provider knows this gateway",
        ));
    }
    let name = raw.name.as_ref().map(Spanned::get_ref);
    if let Some(text) = &raw.name
        && !(1..=40).contains(&text.get_ref().chars().count())
    {
        return Err(at(
            text.span(),
            "no name for a button".to_owned(),
            "write 1 to 40 characters, such as \"Example ID\"",
        ));
    }
    for scope in &raw.scopes {
        let text = scope.get_ref();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) || raw.scopes.len() > MOST
        {
            return Err(at(
                scope.span(),
                "not a scope".to_owned(),
                "write each scope as a text of its own: [\"groups\"]; openid is always asked for",
            ));
        }
    }
    // An empty list would let everybody in, where somebody meant nobody.
    if let Some(groups) = &raw.allowed_groups
        && (groups.get_ref().is_empty() || groups.get_ref().len() > MOST)
    {
        return Err(at(
            groups.span(),
            "no group may sign in".to_owned(),
            "name the provider's groups, or leave the key out: then everybody who is linked may",
        ));
    }
    Ok(Some(Settings {
        name: name.map_or_else(|| "your organisation".to_owned(), Clone::clone),
        client_secret_file: super::absolute(raw.client_secret_file, at)?,
        issuer: raw.issuer.into_inner(),
        client_id: raw.client_id.into_inner(),
        scopes: raw.scopes.into_iter().map(Spanned::into_inner).collect(),
        allowed_groups: raw
            .allowed_groups
            .map(Spanned::into_inner)
            .unwrap_or_default(),
        groups_claim: raw.groups_claim.unwrap_or_else(|| DEFAULT_CLAIM.to_owned()),
    }))
}
