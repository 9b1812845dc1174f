//! The `[channel.NAME]` tables and `[notify]` of approver.toml: where people are told, and which
//! group by which channels.
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::config::ConfigError;

/// The route of groups that `[notify]` does not name, and of rules that name no group.
const DEFAULT: &str = "default";
const MAX_CHANNELS: usize = 32;

/// Every channel, and who is told by which of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channels {
    pub channels: Vec<Named>,
    /// By group: indices into `channels`, the first that works is used.
    routes: BTreeMap<String, Vec<usize>>,
}

/// A channel with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub kind: Kind,
}

/// What a channel is. Secrets are in files, and stay there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A Slack app: messages with buttons.
    Slack(Slack),
    /// A Slack incoming webhook: messages with a link. The file holds its URL.
    SlackWebhook(PathBuf),
    /// A Teams workflow: cards with a link. The file holds its URL.
    Teams(PathBuf),
    /// Standard Webhooks, for programs.
    Webhook(Webhook),
}

/// A Slack app in one workspace and one of its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slack {
    /// `C…`: where messages go.
    pub channel: String,
    /// `T…`: the only workspace whose people count.
    pub team: String,
    /// `A…`: the only app whose buttons count.
    pub app: String,
    /// `xoxb-…`
    pub bot_token_file: PathBuf,
    /// `xapp-…`: clicks come over Socket Mode.
    pub app_token_file: Option<PathBuf>,
    /// Clicks come over HTTP to `/slack/NAME/interactive` of the people listener.
    pub signing_secret_file: Option<PathBuf>,
    /// No slash at its end.
    pub api_url: String,
}

/// An endpoint that takes Standard Webhooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: String,
    /// `whsec_…`
    pub secret_file: PathBuf,
    /// Addresses of private networks are connected to as well.
    pub allow_private: bool,
}

impl Channels {
    /// The channels of a group, best first.
    pub fn route(&self, group: Option<&str>) -> &[usize] {
        group
            .and_then(|group| self.routes.get(group))
            .or_else(|| self.routes.get(DEFAULT))
            .map_or(&[], Vec::as_slice)
    }
}

/// One `[channel.NAME]` as it is written; which keys belong to which kind is checked afterwards, so
/// that mistakes keep their place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawChannel {
    kind: Spanned<RawKind>,
    channel: Option<Spanned<String>>,
    team: Option<Spanned<String>>,
    app: Option<Spanned<String>>,
    bot_token_file: Option<Spanned<PathBuf>>,
    app_token_file: Option<Spanned<PathBuf>>,
    signing_secret_file: Option<Spanned<PathBuf>>,
    api_url: Option<Spanned<String>>,
    url_file: Option<Spanned<PathBuf>>,
    url: Option<Spanned<String>>,
    secret_file: Option<Spanned<PathBuf>>,
    allow_private: Option<Spanned<bool>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawKind {
    Slack,
    SlackWebhook,
    Teams,
    Webhook,
}

pub(crate) type RawChannels = BTreeMap<Spanned<String>, RawChannel>;
pub(crate) type RawNotify = BTreeMap<Spanned<String>, Vec<Spanned<String>>>;

/// Makes a mistake with its place.
type At<'a> = &'a dyn Fn(Range<usize>, String, &'static str) -> ConfigError;

/// Checks both tables.
pub(crate) fn channels(
    raw: RawChannels,
    notify: RawNotify,
    at: At<'_>,
) -> Result<Channels, ConfigError> {
    let mut channels = Vec::new();
    for (name, raw) in raw {
        if channels.len() == MAX_CHANNELS {
            let what = format!("more than {MAX_CHANNELS} channels");
            return Err(at(name.span(), what, "leave out those nobody reads"));
        }
        if !is_word(name.get_ref()) {
            return Err(at(
                name.span(),
                "not a name for a channel".to_owned(),
                "use 1 to 32 of a-z 0-9 _ -",
            ));
        }
        let kind = kind(raw, at)?;
        let name = name.into_inner();
        channels.push(Named { name, kind });
    }
    let mut routes = BTreeMap::new();
    for (group, names) in notify {
        let mut route = Vec::new();
        for name in names {
            let index = channels.iter().position(|c| c.name == *name.get_ref());
            let Some(index) = index else {
                return Err(at(
                    name.span(),
                    format!("there is no channel {:?}", name.get_ref()),
                    "add a [channel.NAME] table for it, or take it out",
                ));
            };
            if route.contains(&index) {
                return Err(at(
                    name.span(),
                    "the same channel twice".to_owned(),
                    "name each once, in the order they are tried",
                ));
            }
            route.push(index);
        }
        routes.insert(group.into_inner(), route);
    }
    if routes.is_empty() && !channels.is_empty() {
        routes.insert(DEFAULT.to_owned(), (0..channels.len()).collect());
    }
    Ok(Channels { channels, routes })
}

fn kind(mut raw: RawChannel, at: At<'_>) -> Result<Kind, ConfigError> {
    let span = raw.kind.span();
    let need = |key: &'static str, fix: &'static str| {
        at(
            span.clone(),
            format!("this kind of channel needs {key}"),
            fix,
        )
    };
    let kind = match *raw.kind.get_ref() {
        RawKind::Slack => Kind::Slack(slack(&mut raw, at, &need)?),
        RawKind::SlackWebhook => Kind::SlackWebhook(
            file(raw.url_file.take(), at)?
                .ok_or_else(|| need("url_file", "name the file that holds the webhook's URL"))?,
        ),
        RawKind::Teams => Kind::Teams(
            file(raw.url_file.take(), at)?
                .ok_or_else(|| need("url_file", "name the file that holds the workflow's URL"))?,
        ),
        RawKind::Webhook => Kind::Webhook(webhook(&mut raw, at, &need)?),
    };
    let rest = [
        raw.channel.map(|v| v.span()),
        raw.team.map(|v| v.span()),
        raw.app.map(|v| v.span()),
        raw.bot_token_file.map(|v| v.span()),
        raw.app_token_file.map(|v| v.span()),
        raw.signing_secret_file.map(|v| v.span()),
        raw.api_url.map(|v| v.span()),
        raw.url_file.map(|v| v.span()),
        raw.url.map(|v| v.span()),
        raw.secret_file.map(|v| v.span()),
        raw.allow_private.map(|v| v.span()),
    ];
    match rest.into_iter().flatten().next() {
        Some(span) => Err(at(
            span,
            "this kind of channel has no such key".to_owned(),
            "see docs/approver.md for the keys of each kind",
        )),
        None => Ok(kind),
    }
}

type Need<'a> = &'a dyn Fn(&'static str, &'static str) -> ConfigError;

fn slack(raw: &mut RawChannel, at: At<'_>, need: Need<'_>) -> Result<Slack, ConfigError> {
    let id = |value: Option<Spanned<String>>, letters: &str, key, fix: &'static str| {
        let value = value.ok_or_else(|| need(key, fix))?;
        let good = value.get_ref().starts_with(|c| letters.contains(c))
            && (2..=32).contains(&value.get_ref().len())
            && value
                .get_ref()
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if good {
            return Ok(value.into_inner());
        }
        Err(at(value.span(), "not an id of Slack's".to_owned(), fix))
    };
    let channel = id(
        raw.channel.take(),
        "CG",
        "channel",
        "write the channel's id, such as \"C0123456789\": it stands at the end of its About tab",
    )?;
    let team = id(
        raw.team.take(),
        "TE",
        "team",
        "write the workspace's id, such as \"T0123456789\": it is in the address of Slack in a browser",
    )?;
    let app = id(
        raw.app.take(),
        "A",
        "app",
        "write the app's id, such as \"A0123456789\": it is on its Basic Information page",
    )?;
    let bot_token_file = file(raw.bot_token_file.take(), at)?
        .ok_or_else(|| need("bot_token_file", "name the file that holds the xoxb- token"))?;
    let app_token_file = file(raw.app_token_file.take(), at)?;
    let signing_secret_file = file(raw.signing_secret_file.take(), at)?;
    if app_token_file.is_none() && signing_secret_file.is_none() {
        return Err(need(
            "app_token_file or signing_secret_file",
            "app_token_file for Socket Mode (no way in from outside), signing_secret_file for HTTP",
        ));
    }
    let api_url = match raw.api_url.take() {
        None => "https://slack.com/api".to_owned(),
        Some(url) if is_base(url.get_ref()) => url.into_inner().trim_end_matches('/').to_owned(),
        Some(url) => {
            return Err(at(
                url.span(),
                "neither https:// nor http:// on this machine".to_owned(),
                "leave it out, or write \"https://slack-gov.com/api\"",
            ));
        }
    };
    Ok(Slack {
        channel,
        team,
        app,
        bot_token_file,
        app_token_file,
        signing_secret_file,
        api_url,
    })
}

fn webhook(raw: &mut RawChannel, at: At<'_>, need: Need<'_>) -> Result<Webhook, ConfigError> {
    let url = raw
        .url
        .take()
        .ok_or_else(|| need("url", "write the address of what takes them"))?;
    if !is_base(url.get_ref()) {
        return Err(at(
            url.span(),
            "neither https:// nor http:// on this machine".to_owned(),
            "write it as https://; what it carries is for nobody else",
        ));
    }
    let secret_file = file(raw.secret_file.take(), at)?.ok_or_else(|| {
        need(
            "secret_file",
            "name a file with whsec_ and 24 to 64 bytes as base64, such as of: openssl rand -base64 32",
        )
    })?;
    Ok(Webhook {
        url: url.into_inner(),
        secret_file,
        allow_private: raw.allow_private.take().is_some_and(Spanned::into_inner),
    })
}

fn file(path: Option<Spanned<PathBuf>>, at: At<'_>) -> Result<Option<PathBuf>, ConfigError> {
    match path {
        Some(path) if !path.get_ref().is_absolute() => Err(at(
            path.span(),
            "not an absolute path".to_owned(),
            "start it with /",
        )),
        path => Ok(path.map(Spanned::into_inner)),
    }
}

/// HTTPS, or plain HTTP that does not leave the machine.
fn is_base(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| {
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let scheme = url.scheme() == "https" || (url.scheme() == "http" && local);
        scheme && url.has_host() && url.username().is_empty() && url.password().is_none()
    })
}

fn is_word(name: &str) -> bool {
    let allowed: BTreeSet<u8> = (b'a'..=b'z').chain(b'0'..=b'9').chain(*b"_-").collect();
    (1..=32).contains(&name.len()) && name.bytes().all(|b| allowed.contains(&b))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Channels, String> {
        Config::parse(Path::new("approver.toml"), text)
            .map(|config| config.channels)
            .map_err(|error| error.to_string())
    }

    const SLACK: &str = "[channel.ops]\nkind = \"slack\"\nchannel = \"C1\"\nteam = \"T1\"\napp = \"A1\"\nbot_token_file = \"/b\"\n";

    #[test]
    fn groups_have_routes_and_the_rest_the_default() {
        let two = "[channel.a]\nkind = \"teams\"\nurl_file = \"/a\"\n[channel.b]\nkind = \"slack-webhook\"\nurl_file = \"/b\"\n";
        let all = parse(two).unwrap();
        assert_eq!(
            all.route(Some("privacy")),
            [0, 1],
            "no [notify]: every one, by name"
        );
        let some = parse(&format!(
            "{two}[notify]\ndefault = [\"a\"]\nprivacy = [\"b\", \"a\"]\nquiet = []\n"
        ))
        .unwrap();
        assert_eq!(some.route(Some("privacy")), [1, 0]);
        assert_eq!(some.route(Some("quiet")), [0_usize; 0]);
        assert_eq!(some.route(Some("other")), [0]);
        assert_eq!(some.route(None), [0]);
        assert_eq!(parse("").unwrap().route(None), [0_usize; 0]);
    }

    #[test]
    fn mistakes_name_the_line_and_the_fix() {
        let table = [
            (
                "[channel.\"A b\"]\nkind = \"teams\"\nurl_file = \"/a\"".to_owned(),
                ":1:",
                "a-z",
            ),
            (
                "[channel.a]\nkind = \"teams\"".to_owned(),
                ":2:8:",
                "url_file",
            ),
            (
                "[channel.a]\nkind = \"pager\"".to_owned(),
                ":2:8:",
                "docs/approver.md",
            ),
            (
                "[channel.a]\nkind = \"teams\"\nurl_file = \"a\"".to_owned(),
                ":3:12:",
                "start it with /",
            ),
            (
                "[channel.a]\nkind = \"teams\"\nurl_file = \"/a\"\nteam = \"T1\"".to_owned(),
                ":4:8:",
                "docs/approver.md",
            ),
            (
                "[notify]\ndefault = [\"x\"]".to_owned(),
                ":2:12:",
                "[channel.NAME]",
            ),
            (SLACK.to_owned(), ":2:8:", "Socket Mode"),
            (
                format!("{SLACK}app_token_file = \"/a\"\napi_url = \"http://slack.com/api\""),
                ":8:11:",
                "leave it out",
            ),
            (SLACK.replace("T1", "t1"), ":4:8:", "workspace"),
            (
                "[channel.a]\nkind = \"webhook\"\nurl = \"https://u:p@x/\"\nsecret_file = \"/a\""
                    .to_owned(),
                ":3:7:",
                "https://",
            ),
            (
                "[channel.a]\nkind = \"webhook\"\nurl = \"https://x/\"".to_owned(),
                ":2:8:",
                "openssl rand",
            ),
        ];
        for (text, place, fix) in table {
            let error = parse(&text).unwrap_err();
            assert!(
                error.contains(place) && error.contains(fix) && error.contains('^'),
                "{text}\n{error}"
            );
        }
    }
}
