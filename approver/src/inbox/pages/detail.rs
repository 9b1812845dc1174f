//! One request: what is held, why, what an approval would allow, and what this agent asked before.
use maud::{Markup, html};
use syshold_protocol::{
    ActionObject, Approver, Assurance, Lifespan, OutcomeResult, RequestPhase, Scope, UnixMs,
    display,
};

use super::{Notice, ago, clock, countdown, say, sentence, shell, standing_word};
use crate::people_api::Approval;
use crate::render;
use crate::store::history::Past;
use crate::store::notices::Notice as Notified;
use crate::store::people::Account;
use crate::store::requests::word;

/// A request and what stands around it.
pub(crate) struct Shown<'a> {
    pub(crate) account: &'a Account,
    pub(crate) csrf: &'a str,
    pub(crate) approval: &'a Approval,
    pub(crate) object: &'a ActionObject,
    /// What the agent asked for before, newest first.
    pub(crate) before: &'a [Past],
    pub(crate) notice: Option<&'a Notice>,
    pub(crate) now: UnixMs,
}

/// One request, and what can be done about it.
pub(crate) fn detail(shown: &Shown<'_>) -> Markup {
    let Shown {
        approval,
        notice,
        now,
        ..
    } = *shown;
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
        Some((shown.account, shown.csrf)),
        html! {
            @if let Some(Notice(title, text)) = notice { div.banner.bad role="alert" { strong { (title) } (text) } }
            p.small { a href="/" data-back { "← Inbox" } }
            h1 { (approval.title) }
            div.meta {
                span.chip.(render::risk(approval.risk)) { (render::risk(approval.risk)) " risk" }
                span.mono { (approval.code) }
                span { "asked " (ago(now.since(approval.created_at))) " ago" }
                @if approval.need > 1 { span { (approval.have) " of " (approval.need) " approvals" } }
                @if let Some(asked) = &approval.asked { span { "with " (asked) } }
            }
            div.object.mono { (render::object(shown.object)) }
            @if let Some(why) = fact(approval, "Why it is held") { p { (why) } }
            (glance(approval))
            div #standing data-part data-news=(standing_word(approval.state, approval.revoked.is_some())) { (standing(approval, now)) }
            @if let (RequestPhase::Waiting | RequestPhase::Late, Some(why)) = (approval.state, &approval.why_not) {
                div.banner.warn { strong { "You cannot approve this" } (sentence(why)) }
            }
            div #act data-part {
                @if approval.may_approve || approval.may_deny { (forms(shown.csrf, approval)) }
                @if approval.may_revoke { (revoke_form(shown.csrf, approval)) }
            }
            h2 { "Facts, from the kernel and the policy" }
            dl.facts.card {
                @for fact in &approval.facts { div { dt { (fact.label) } dd { (fact.value) } } }
            }
            (told(&approval.notices))
            (before(shown.before, &approval.agent, now))
            @if let Some(text) = &approval.unverified {
                div.unverified { b { "Unverified: what the agent says" } (text) }
            }
        },
    )
}

/// The few facts that decide most of the time, before all of them.
fn glance(approval: &Approval) -> Markup {
    let labels = [
        "Data classes",
        "Has read",
        "Rule",
        "Program",
        "Started by",
        "Owner",
    ];
    html! {
        dl.glance {
            @for label in labels {
                @if let Some(value) = fact(approval, label) { div { dt { (label) } dd { (value) } } }
            }
        }
    }
}

/// Which channels were told, and which did not take it.
fn told(notices: &[Notified]) -> Markup {
    html! {
        @if !notices.is_empty() {
            h2 { "Told" }
            dl.facts.card {
                @for notice in notices {
                    div {
                        dt { (notice.channel) }
                        dd {
                            @if let Some(error) = &notice.error { "not delivered: " (display::escape(error)) }
                            @else { "at " (clock(notice.at)) }
                        }
                    }
                }
            }
        }
    }
}

fn before(before: &[Past], agent: &str, now: UnixMs) -> Markup {
    html! {
        h2 { "What " (agent) " asked before, on this host" }
        @if before.is_empty() {
            p.soft { "Nothing that the gateway knows of." }
        } @else {
            ul.before.card {
                @for past in before {
                    li {
                        span.chip.(word(past.phase)) { (standing_word(past.phase, past.revoked)) }
                        " "
                        a href={ "/approvals/" (past.id) } { (past.title) }
                        " "
                        span.soft { (ago(now.since(past.received_at))) " ago" }
                    }
                }
            }
        }
    }
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
                strong { "Held: " (countdown(approval.expires_at, now)) " left" }
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
            @if let Some(revoked) = &approval.revoked {
                div.banner.warn {
                    strong { "Taken back" }
                    "by " b { (display::escape(revoked.by.as_str())) } " " (ago(now.since(revoked.at))) " ago: “"
                    (display::escape(&revoked.reason)) "”. What the approval had let through stays done; the same is asked again."
                }
            }
            div.banner.good {
                strong { "Approved " (granted(approval)) }
                "by " (who(approvers)) ". " (applied(approval))
            }
        },
        RequestPhase::Denied => html! {
            div.banner.bad {
                strong { "Denied" }
                @if approvers.is_empty() { "without asking: people denied the same three times lately. " }
                @else { "by " (who(approvers)) ". " }
                (applied(approval))
            }
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
            @if approver.assurance == Assurance::Passkey { ", signed with their passkey" }
            @if let Some(standing) = &approver.standing { " (" (display::escape(standing)) ")" }
            @if let Some(reason) = &approver.reason { ": “" (display::escape(reason)) "”" }
        }
    }
}

fn granted(approval: &Approval) -> String {
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
    let passkey = approval.assurance == Some(Assurance::Passkey);
    let challenge = passkey.then(|| format!("/approvals/{}/challenge", approval.id));
    html! {
        (say())
        div.act {
            @if approval.may_approve {
                form.act.card method="post" action={ "/approvals/" (approval.id) "/approve" } data-passkey=[challenge] {
                    @if passkey {
                        p.small { "This rule asks for your own signature: your passkey signs the facts below and the scope you choose, and the host checks it." }
                        noscript { p.small { "Approving needs JavaScript here; denying does not." } }
                        input type="hidden" name="proof";
                    }
                    input type="hidden" name="csrf" value=(csrf);
                    input type="hidden" name="rendered_sha256" value=(approval.rendered_sha256);
                    div {
                        label for="why" { "Reason (optional, kept in the ledger)" }
                        input #why type="text" name="reason" maxlength="500" autocomplete="off";
                    }
                    div.buttons {
                        button.yes type="submit" name="scope" value="once" data-approve {
                            "Approve " (render::scope(Scope::Once, approval.waiting))
                        }
                    }
                    p.small.soft { (adds(Scope::Once, approval)) }
                    @if approval.scopes.len() > 1 { (wider(approval)) }
                }
            }
            @if approval.may_deny {
                details.deny data-deny open[!approval.may_approve] {
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

/// It only takes away: no digest of what was shown is needed.
fn revoke_form(csrf: &str, approval: &Approval) -> Markup {
    html! {
        details.deny {
            summary { "Take back …" }
            form.card method="post" action={ "/approvals/" (approval.id) "/revoke" } {
                input type="hidden" name="csrf" value=(csrf);
                p.small { "What the approval has let through stays done. What is left of it ends on the host at once, and the same is asked again." }
                div {
                    label for="back" { "Reason (kept in the ledger)" }
                    input #back type="text" name="reason" required maxlength="500" autocomplete="off";
                }
                div.buttons { button.no type="submit" { "Take back" } }
            }
        }
    }
}

/// More than this once: each says what it would add.
fn wider(approval: &Approval) -> Markup {
    let most = approval.scopes.iter().filter_map(|scope| match scope {
        Scope::For(minutes) => Some(minutes.get()),
        _ => None,
    });
    let most = most.max();
    html! {
        details.wider {
            summary { "For longer …" }
            @for scope in approval.scopes.iter().filter(|scope| **scope != Scope::Once) {
                div.choice {
                    button type="submit" name="scope" value=(scope) { "Approve " (render::scope(*scope, 1)) }
                    p.small.soft { (adds(*scope, approval)) }
                }
            }
            @if let Some(most) = most {
                div.choice {
                    div.minutes {
                        label for="minutes" { "Or so many minutes, from now (1 to " (most) ")" }
                        input #minutes type="number" name="minutes" min="1" max=(most) value=((most / 2).max(1)) inputmode="numeric";
                    }
                    button type="submit" name="scope" value="minutes" { "Approve for that time" }
                    p.small.soft { "Adds: the same action on this very object by every process of " (approval.agent) ", until then. No other object, no other action." }
                }
            }
        }
    }
}

/// What an approval lets through, and that it lets nothing else through.
fn adds(scope: Scope, approval: &Approval) -> String {
    let process = fact(approval, "Process").unwrap_or("this process");
    match scope {
        Scope::Once if approval.state == RequestPhase::Late => "Adds: one retry of this very call.".to_owned(),
        Scope::Once if approval.waiting > 1 => format!(
            "Adds: the {} calls that wait now, and nothing after them.",
            approval.waiting
        ),
        Scope::Once => "Adds: this one call, and nothing after it.".to_owned(),
        Scope::Process => format!(
            "Adds: the same action on this very object by {process}, until that process ends."
        ),
        Scope::Session => "Adds: the same action on this very object by the agent's whole process tree, until it ends.".to_owned(),
        Scope::For(minutes) => format!("Adds: the same action on this very object for {minutes} minutes."),
    }
}
