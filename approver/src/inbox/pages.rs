//! The pages. Text from outside comes through `display` and then through maud's own escaping.
use axum::http::StatusCode;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use syshold_protocol::{
    ActionObject, Approver, OutcomeResult, RequestPhase, Scope, UnixMs, display,
};

use crate::people_api::Approval;
use crate::render;
use crate::store::people::Account;
use crate::store::requests::word;

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
pub(super) fn login(next: &str, notice: Option<&Notice>) -> Markup {
    shell(
        "Sign in",
        None,
        None,
        html! {
            div.login {
                (PreEscaped(MARK))
                h1 { "Syshold inbox" }
                p.soft { "Sign in with your personal token to answer what agents on your hosts ask." }
                @if let Some(Notice(title, text)) = notice { div.banner.bad role="alert" { strong { (title) } (text) } }
                form.card method="post" action="/login" {
                    input type="hidden" name="next" value=(next);
                    input type="hidden" name="username" value="syshold" autocomplete="username";
                    div {
                        label for="token" { "Personal token" }
                        input #token type="password" name="token" required autocomplete="current-password" placeholder="sypat_…" autofocus;
                    }
                    button.yes type="submit" { "Sign in" }
                }
            }
        },
    )
}

/// Everything that waits, or everything there was.
pub(super) fn list(
    account: &Account,
    csrf: &str,
    approvals: &[Approval],
    all: bool,
    now: UnixMs,
) -> Markup {
    let waiting = approvals
        .iter()
        .filter(|a| a.state == RequestPhase::Waiting)
        .count();
    let title = if all || waiting == 0 {
        "Inbox".to_owned()
    } else {
        format!("({waiting}) Inbox")
    };
    shell(
        &title,
        Some(10),
        Some((account, csrf)),
        html! {
            nav.tabs aria-label="Requests" {
                a href="/" aria-current=[(!all).then_some("page")] { "Waiting" }
                a href="/?show=all" aria-current=[all.then_some("page")] { "All" }
            }
            @if approvals.is_empty() {
                div.empty {
                    (PreEscaped(MARK))
                    strong { @if all { "Nothing has been asked yet" } @else { "Nobody is waiting for you" } }
                    "This page looks again every ten seconds."
                }
            } @else {
                ul.list { @for approval in approvals { li { (row(approval, now)) } } }
            }
        },
    )
}

fn row(approval: &Approval, now: UnixMs) -> Markup {
    html! {
        a.card.(render::risk(approval.risk)) href={ "/approvals/" (approval.id) } {
            div.title { (approval.title) }
            div.meta {
                @if approval.state == RequestPhase::Waiting {
                    span { (left(approval.expires_at.since(now))) " left" }
                } @else {
                    span.chip.(word(approval.state)) { (state_word(approval.state)) }
                    span { (ago(now.since(approval.created_at))) " ago" }
                }
                @if approval.need > 1 { span { (approval.have) " of " (approval.need) " approvals" } }
                @if approval.waiting > 1 { span { (approval.waiting) " identical holds" } }
                span { "on " (approval.host) }
                span.mono { (approval.code) }
                @if !approval.may_approve && approval.may_deny { span { "you may only deny" } }
            }
        }
    }
}

/// One request, and what can be done about it.
pub(super) fn detail(
    account: &Account,
    csrf: &str,
    approval: &Approval,
    object: &ActionObject,
    notice: Option<&Notice>,
    now: UnixMs,
) -> Markup {
    // Until the kernel has applied it, this page looks again by itself.
    let unapplied = matches!(
        approval.state,
        RequestPhase::Approved | RequestPhase::Denied
    ) && approval.outcome.is_none();
    let fresh = approval
        .decision
        .as_ref()
        .is_some_and(|decision| now.since(decision.issued_at) < 120_000);
    let refresh = (unapplied && fresh && notice.is_none()).then_some(2);
    shell(
        &approval.title,
        refresh,
        Some((account, csrf)),
        html! {
            @if let Some(Notice(title, text)) = notice { div.banner.bad role="alert" { strong { (title) } (text) } }
            p.small { a href="/" { "← Inbox" } }
            h1 { (approval.title) }
            div.meta {
                span.chip.(render::risk(approval.risk)) { (render::risk(approval.risk)) " risk" }
                span.mono { (approval.code) }
                span { "asked " (ago(now.since(approval.created_at))) " ago" }
                @if approval.need > 1 { span { (approval.have) " of " (approval.need) " approvals" } }
            }
            div.object.mono { (render::object(object)) }
        @if let Some(why) = fact(approval, "Why it is held") { p { (why) } }
        (standing(approval, now))
        @if let (RequestPhase::Waiting | RequestPhase::Late, Some(why)) = (approval.state, &approval.why_not) {
            div.banner.warn { strong { "You cannot approve this" } (sentence(why)) }
        }
        @if approval.may_approve || approval.may_deny { (forms(csrf, approval)) }
        h2 { "Facts, from the kernel and the policy" }
            dl.facts.card {
                @for fact in &approval.facts { div { dt { (fact.label) } dd { (fact.value) } } }
            }
            @if let Some(text) = &approval.unverified {
                div.unverified { b { "Unverified: what the agent says" } (text) }
            }
        },
    )
}

fn fact<'a>(approval: &'a Approval, label: &str) -> Option<&'a str> {
    let found = approval.facts.iter().find(|fact| fact.label == label);
    found.map(|fact| fact.value.as_str())
}

/// Where the request stands, in one box.
fn standing(approval: &Approval, now: UnixMs) -> Markup {
    let who = |approvers: &[Approver]| people(approvers, now);
    let decision = approval.decision.as_ref();
    let approvers = decision.map_or(&[][..], |decision| &decision.approvers);
    match approval.state {
        RequestPhase::Waiting => html! {
            div.banner {
                strong { "Held: " (left(approval.expires_at.since(now))) " left" }
                "Without an answer by " (clock(approval.expires_at)) " the call fails."
                @if approval.waiting > 1 { " One approval covers the " (approval.waiting) " identical holds waiting." }
                @if !approval.approvals.is_empty() { " Approved so far: " (who(&approval.approvals)) "." }
            }
        },
        RequestPhase::Late => html! {
            div.banner.warn {
                strong { "The hold is over: the call has failed" }
                "An approval by " (clock(approval.expires_at)) " is still good for one retry."
                @if !approval.approvals.is_empty() { " Approved so far: " (who(&approval.approvals)) "." }
            }
        },
        RequestPhase::Approved => html! {
            div.banner.good {
                strong { "Approved " (granted(approval)) }
                "by " (who(approvers)) ". " (applied(approval))
            }
        },
        RequestPhase::Denied => html! {
            div.banner.bad { strong { "Denied" } "by " (who(approvers)) ". " (applied(approval)) }
        },
        RequestPhase::Expired => html! {
            div.banner { strong { "Expired" } "Nobody decided in time; the call failed, and no retry was allowed." }
        },
        RequestPhase::Withdrawn => html! {
            div.banner { strong { "Withdrawn" } "The process has gone or has given up; there is nothing left to decide." }
        },
    }
}

fn people(approvers: &[Approver], now: UnixMs) -> Markup {
    html! {
        @for (index, approver) in approvers.iter().enumerate() {
            @if index > 0 { ", " }
            b { (display::escape(approver.subject.as_str())) } " " (ago(now.since(approver.at))) " ago"
            @if let Some(reason) = &approver.reason { ": “" (display::escape(reason)) "”" }
        }
    }
}

fn granted(approval: &Approval) -> String {
    use syshold_protocol::Lifespan;
    let Some(grant) = approval
        .decision
        .as_ref()
        .and_then(|decision| decision.grant.as_ref())
    else {
        return String::new();
    };
    match (grant.lifespan, grant.max_uses, grant.expires_at) {
        (Lifespan::Single, Some(uses), _) => render::scope(Scope::Once, uses),
        (Lifespan::Process, _, _) => render::scope(Scope::Process, 1),
        (Lifespan::Session, _, _) => render::scope(Scope::Session, 1),
        (_, _, Some(expires_at)) => format!("until {}", clock(expires_at)),
        _ => String::new(),
    }
}

/// Done is what the kernel has done.
fn applied(approval: &Approval) -> String {
    let Some(outcome) = &approval.outcome else {
        return "The host has not applied it yet.".to_owned();
    };
    let held = ago(outcome.held_ms);
    match outcome.result {
        OutcomeResult::Resumed => format!("Applied: the call went on after {held}."),
        OutcomeResult::Denied => format!("Applied: the call failed after {held}."),
        OutcomeResult::Expired => "The hold had ended on the host before this arrived.".to_owned(),
        OutcomeResult::Late => "The host keeps it for one retry.".to_owned(),
        OutcomeResult::RefusedStale => {
            "Refused by the host: the process or the object is no longer the one you were shown."
                .to_owned()
        }
        OutcomeResult::RefusedDecision => {
            "Refused by the host: the decision did not pass its own checks.".to_owned()
        }
        OutcomeResult::ProcessGone => "The process has gone.".to_owned(),
    }
}

fn forms(csrf: &str, approval: &Approval) -> Markup {
    html! {
        div.act {
            @if approval.may_approve {
                form.act.card method="post" action={ "/approvals/" (approval.id) "/approve" } {
                    input type="hidden" name="csrf" value=(csrf);
                    input type="hidden" name="rendered_sha256" value=(approval.rendered_sha256);
                    div {
                        label for="why" { "Reason (optional, kept in the ledger)" }
                        input #why type="text" name="reason" maxlength="500" autocomplete="off";
                    }
                    div.buttons {
                        @for scope in &approval.scopes {
                            button.yes[*scope == Scope::Once] type="submit" name="scope" value=(scope) {
                                "Approve " (render::scope(*scope, approval.waiting))
                            }
                        }
                    }
                }
            }
            @if approval.may_deny {
                details.deny open[!approval.may_approve] {
                    summary { "Deny …" }
                    form.card method="post" action={ "/approvals/" (approval.id) "/deny" } {
                        input type="hidden" name="csrf" value=(csrf);
                        div {
                            label for="no" { "Reason (kept in the ledger)" }
                            input #no type="text" name="reason" required maxlength="500" autocomplete="off";
                        }
                        div.buttons { button.no type="submit" { "Deny" } }
                    }
                }
            }
        }
    }
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
            div.empty { (PreEscaped(MARK)) strong { (title) } p { (text) } a href="/" { "To the inbox" } }
        },
    )
}

fn shell(
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
                @if let Some(seconds) = refresh { meta http-equiv="refresh" content=(seconds); }
                meta name="robots" content="noindex, nofollow";
                title { (title) " · Syshold" }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="/mark.svg" type="image/svg+xml";
            }
            body {
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
                main { (body) }
            }
        }
    }
}

fn state_word(phase: RequestPhase) -> &'static str {
    match phase {
        RequestPhase::Late => "late",
        other => word(other),
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
