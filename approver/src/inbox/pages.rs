//! The pages. Text from outside comes through `display` and then through maud's own escaping.
use axum::http::StatusCode;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use syshold_protocol::{RequestPhase, UnixMs};

use crate::desk::Desk;
use crate::store::people::Account;
use crate::store::requests::word;

mod detail;
mod list;
pub(super) use detail::{Shown, detail};
pub(super) use list::{Batch, List, batch, batch_done, list};

/// The mark, also as an icon.
pub(super) const MARK: &str = include_str!("mark.svg");

/// Why an answer did nothing.
pub(super) struct Notice(pub(super) &'static str, pub(super) String);

/// A page that loads itself again at once.
pub(super) fn reload() -> Markup {
    shell(
        "Syshold",
        Some(0),
        None,
        html! { p.soft { "One moment …" } },
    )
}

/// The form for a personal token.
pub(super) fn login(next: &str, desk: &Desk, notice: Option<&Notice>) -> Markup {
    shell(
        "Sign in",
        None,
        None,
        html! {
            div.login {
                (PreEscaped(MARK))
                h1 { "Syshold inbox" }
                p.soft { "Sign in to answer what agents on your hosts ask." }
                (say())
                @if let Some(Notice(title, text)) = notice { div.banner.bad role="alert" { strong { (title) } (text) } }
                @if let Some(provider) = &desk.oidc {
                    a.button href={ "/login/oidc?next=" (next) } { "Sign in with " (provider.settings.name) }
                }
                @if desk.site.is_some() {
                    button.yes.wide type="button" hidden data-sign-in data-next=(next) { "Sign in with a passkey" }
                }
                form.card method="post" action="/login" {
                    input type="hidden" name="next" value=(next);
                    input type="hidden" name="username" value="syshold" autocomplete="username";
                    div {
                        label for="token" { "Personal token" }
                        input #token type="password" name="token" required autocomplete="current-password" placeholder="sypat_…" autofocus;
                    }
                    button type="submit" { "Sign in with the token" }
                }
            }
        },
    )
}

/// Where a one-time link leads: the page that registers a passkey.
pub(super) fn welcome() -> Markup {
    shell(
        "Register a passkey",
        None,
        None,
        html! {
            div.login {
                (PreEscaped(MARK))
                h1 { "Register your passkey" }
                p.soft { "With it you sign in, and sign approvals that need proof that it was you: with your finger, your face, or the PIN of this device or security key." }
                (say())
                noscript { div.banner.warn { strong { "This page needs JavaScript" } "Browsers offer passkeys to scripts only." } }
                form.card data-register="" {
                    div {
                        label for="label" { "A name for it" }
                        input #label type="text" name="label" required maxlength="64" value="My passkey" autocomplete="off";
                    }
                    button.yes type="submit" { "Register" }
                }
                section data-done="" hidden {
                    div.banner.good { h2 tabindex="-1" { "Registered" } "You are signed in." }
                    p { "Hosts believe a signature only by keys in their own policy. If yours ask for passkeys, send this line to whoever keeps their policy; it is not a secret:" }
                    p.object.mono data-pin="" {}
                    p { a href="/" { "To the inbox" } }
                }
            }
        },
    )
}

/// Where the script says what went wrong.
fn say() -> Markup {
    html! { div.banner.bad data-say="" role="alert" tabindex="-1" hidden {} }
}

/// Something went wrong before there was a page.
pub(super) fn error(status: StatusCode, text: &str) -> Markup {
    let title = match status {
        StatusCode::NOT_FOUND => "There is nothing here",
        StatusCode::SERVICE_UNAVAILABLE => "Not now",
        _ => "That did not work",
    };
    shell(
        title,
        None,
        None,
        html! {
            div.empty { (PreEscaped(MARK)) h1 { (title) } p { (text) } a href="/" { "To the inbox" } }
        },
    )
}

pub(super) fn shell(
    title: &str,
    refresh: Option<u32>,
    session: Option<(&Account, &str)>,
    body: Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @match refresh {
                    // Where a script runs, it is told when to look again.
                    Some(seconds @ 1..) => noscript { meta http-equiv="refresh" content=(seconds); },
                    Some(seconds) => meta http-equiv="refresh" content=(seconds);,
                    None => {}
                }
                meta name="robots" content="noindex, nofollow";
                title { (title) " · Syshold" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="/mark.svg" type="image/svg+xml";
                script src="/app.js" defer {}
            }
            body data-live=[session.map(|_| "/events")] {
                @if session.is_some() { a.skip href="#main" { "To the requests" } }
                @if let Some((account, csrf)) = session {
                    header.top {
                        a.brand href="/" { (PreEscaped(MARK)) "Syshold" }
                        span.who { (account.email) }
                        form method="post" action="/logout" {
                            input type="hidden" name="csrf" value=(csrf);
                            button.quiet type="submit" { "Sign out" }
                        }
                    }
                }
                main #main tabindex="-1" { (body) }
                @if session.is_some() {
                    dialog #keys aria-labelledby="keys-title" {
                        h2 #keys-title { "Keys" }
                        dl.keys {
                            @for (key, what) in KEYS { div { dt { kbd { (key) } } dd { (what) } } }
                        }
                        form method="dialog" { button type="submit" { "Close" } }
                    }
                    p.sr #news role="status" {}
                }
            }
        }
    }
}

/// What the script listens for. None of them decides: each goes to where a person then does.
const KEYS: [(&str, &str); 7] = [
    ("j", "next request"),
    ("k", "previous request"),
    ("a", "go to Approve"),
    ("d", "go to Deny"),
    ("u", "back to the inbox"),
    ("/", "search"),
    ("?", "this list"),
];

/// A time to come, which the script counts down.
fn countdown(until: UnixMs, now: UnixMs) -> Markup {
    html! { time data-until=(until.ms()) { (left(until.since(now))) } }
}

fn state_word(phase: RequestPhase) -> &'static str {
    match phase {
        RequestPhase::Late => "late",
        other => word(other),
    }
}

/// The state of a request, or that what was approved was taken back.
fn standing_word(phase: RequestPhase, revoked: bool) -> &'static str {
    if revoked {
        "taken back"
    } else {
        state_word(phase)
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        format!("{}{}.", first.to_uppercase(), chars.as_str())
    })
}

/// Time left, in minutes and seconds.
fn left(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The time of day; the pages are about the next minutes.
fn clock(time: UnixMs) -> String {
    let text = time.to_string();
    text.get(11..19)
        .map_or(text.clone(), |clock| format!("{clock} UTC"))
}

/// Time passed, in its largest unit.
fn ago(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}
