//! What waits, what was, and several of a kind at once.
use maud::{Markup, PreEscaped, html};
use syshold_protocol::{Assurance, RequestPhase, UnixMs, display};

use super::{MARK, ago, countdown, say, sentence, shell, standing_word};
use crate::people_api::Approval;
use crate::render;
use crate::store::people::Account;
use crate::store::requests::word;

/// The list, and what was looked for.
pub(crate) struct List<'a> {
    pub(crate) account: &'a Account,
    pub(crate) csrf: &'a str,
    /// What has to be reviewed, above everything.
    pub(crate) due: Markup,
    pub(crate) approvals: &'a [Approval],
    pub(crate) all: bool,
    pub(crate) search: &'a str,
    /// There is more than is shown.
    pub(crate) more: bool,
    pub(crate) now: UnixMs,
}

/// Everything that waits, or everything there was.
pub(crate) fn list(list: &List<'_>) -> Markup {
    let List {
        approvals,
        all,
        search,
        now,
        ..
    } = *list;
    let is_mine = |a: &&Approval| a.may_approve || a.may_deny;
    let waiting = |a: &&Approval| a.state == RequestPhase::Waiting;
    let mine: Vec<_> = approvals.iter().filter(is_mine).collect();
    let others: Vec<_> = approvals.iter().filter(|a| !is_mine(a)).collect();
    let count = mine.iter().copied().filter(waiting).count();
    let title = match (all, count) {
        (true, _) => "All requests".to_owned(),
        (_, 0) => "Inbox".to_owned(),
        (_, count) => format!("({count}) Inbox"),
    };
    shell(
        &title,
        Some(10),
        Some((list.account, list.csrf)),
        html! {
            h1.sr { @if all { "All requests" } @else { "Inbox" } }
            (list.due)
            nav.tabs aria-label="Requests" {
                a href="/" aria-current=[(!all).then_some("page")] { "Waiting" }
                a href="/?show=all" aria-current=[all.then_some("page")] { "All" }
            }
            form.search method="get" action="/" role="search" {
                input type="hidden" name="show" value="all";
                label.sr for="q" { "Search requests and decisions" }
                input #q type="search" name="q" value=(search) maxlength="200" autocomplete="off"
                    placeholder="Search: agent, host, rule, path, person, code …";
            }
            div #list data-part data-news=[(!all).then(|| waits(count))] {
                @if approvals.is_empty() {
                    (empty(all, search))
                } @else if all {
                    (rows(&approvals.iter().collect::<Vec<_>>(), now))
                    @if list.more {
                        p.soft.small { "These are the newest; search for others." }
                    }
                } @else {
                    @if mine.is_empty() {
                        div.empty { (PreEscaped(MARK)) strong { "Nothing for you to decide" } "What waits below is with others." }
                    } @else {
                        (batches(&mine))
                        (rows(&mine, now))
                    }
                    @if !others.is_empty() {
                        h2 { "With others" }
                        (rows(&others, now))
                    }
                }
            }
        },
    )
}

fn waits(count: usize) -> String {
    match count {
        0 => "Nothing waits for you.".to_owned(),
        1 => "1 request waits for you.".to_owned(),
        count => format!("{count} requests wait for you."),
    }
}

fn empty(all: bool, search: &str) -> Markup {
    html! {
        div.empty {
            (PreEscaped(MARK))
            @if !search.is_empty() {
                strong { "Nothing fits “" (search) "”" }
                "Every word has to be somewhere in the request or its decision. "
                a href="/?show=all" { "Show all" }
            } @else if all {
                strong { "Nothing has been asked yet" }
                "Once an agent tries something that a rule asks about, it is here, for good."
            } @else {
                strong { "Nobody is waiting for you" }
                "This page changes by itself when somebody does."
            }
        }
    }
}

fn rows(approvals: &[&Approval], now: UnixMs) -> Markup {
    html! { ul.list { @for approval in approvals { li { (row(approval, now)) } } } }
}

fn row(approval: &Approval, now: UnixMs) -> Markup {
    html! {
        a.card.(render::risk(approval.risk)) href={ "/approvals/" (approval.id) } data-row {
            div.title { (display::shorten(&approval.title, 400).text) }
            div.meta {
                @if approval.state == RequestPhase::Waiting {
                    span { (countdown(approval.expires_at, now)) " left" }
                } @else {
                    span.chip.(word(approval.state)) { (standing_word(approval.state, approval.revoked.is_some())) }
                    span { (ago(now.since(approval.created_at))) " ago" }
                }
                @if approval.need > 1 { span { (approval.have) " of " (approval.need) " approvals" } }
                @if approval.waiting > 1 { span { (approval.waiting) " identical holds" } }
                @if approval.assurance == Some(Assurance::Passkey) { span { "needs a passkey" } }
                @if let Some(asked) = &approval.asked { span { "asked of " (asked) } }
                span { "on " (approval.host) }
                span.mono { (approval.code) }
                @if !approval.may_approve && approval.may_deny { span { "you may only deny" } }
            }
        }
    }
}

/// Several of one kind: the same agent, under the same rule. Never of different kinds.
fn batches(mine: &[&Approval]) -> Markup {
    let mut kinds: Vec<(&str, &str, usize)> = Vec::new();
    for approval in mine.iter().filter(|a| a.state == RequestPhase::Waiting) {
        let (agent, rule) = (approval.agent.as_str(), approval.rule.as_str());
        match kinds
            .iter_mut()
            .find(|kind| (kind.0, kind.1) == (agent, rule))
        {
            Some(kind) => kind.2 += 1,
            None => kinds.push((agent, rule, 1)),
        }
    }
    kinds.retain(|kind| kind.2 > 1);
    html! {
        @for (agent, rule, count) in kinds {
            form.batch method="get" action="/batch" {
                input type="hidden" name="agent" value=(agent);
                input type="hidden" name="rule" value=(rule);
                button type="submit" { (count) " by " (agent) " under " (rule) ": decide several …" }
            }
        }
    }
}

/// Requests of one kind, to tick.
pub(crate) struct Batch<'a> {
    pub(crate) account: &'a Account,
    pub(crate) csrf: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) rule: &'a str,
    pub(crate) approvals: &'a [Approval],
    pub(crate) now: UnixMs,
}

/// Nothing is ticked, and there is no button that ticks: whoever approves has pointed at each.
pub(crate) fn batch(batch: &Batch<'_>) -> Markup {
    let title = format!("{} under {}", batch.agent, batch.rule);
    shell(
        &title,
        None,
        Some((batch.account, batch.csrf)),
        html! {
            p.small { a href="/" { "← Inbox" } }
            h1 { (title) }
            @if batch.approvals.is_empty() {
                div.empty { (PreEscaped(MARK)) strong { "None of these waits any more" } a href="/" { "To the inbox" } }
            } @else {
                p.soft { "Tick what you have read. An approval here is for the calls that wait now, once, and no more." }
                (say())
                form.act method="post" action="/batch" {
                    input type="hidden" name="csrf" value=(batch.csrf);
                    input type="hidden" name="agent" value=(batch.agent);
                    input type="hidden" name="rule" value=(batch.rule);
                    ul.list {
                        @for approval in batch.approvals {
                            li.card.pick.(render::risk(approval.risk)) {
                                input type="checkbox" name="pick" id={ "p" (approval.id) }
                                    value={ (approval.id) ":" (approval.rendered_sha256) };
                                label for={ "p" (approval.id) } {
                                    span.title { (approval.title) }
                                    span.meta {
                                        span { (countdown(approval.expires_at, batch.now)) " left" }
                                        @if let Some(program) = fact(approval, "Command line") { span.mono { (program) } }
                                        @if !approval.may_approve { span { "you may only deny" } }
                                        @if approval.assurance == Some(Assurance::Passkey) { span { "approve it by itself: it needs a passkey" } }
                                    }
                                }
                                a.small href={ "/approvals/" (approval.id) } { "All facts" span.sr { " of " (approval.code) } }
                            }
                        }
                    }
                    div {
                        label for="why" { "Reason (kept in the ledger; a denial needs one)" }
                        input #why type="text" name="reason" maxlength="500" autocomplete="off";
                    }
                    div.buttons {
                        button.yes type="submit" name="verb" value="approve" { "Approve the ticked, once" }
                        button.no type="submit" name="verb" value="deny" { "Deny the ticked" }
                    }
                }
            }
        },
    )
}

/// What became of each that was ticked.
pub(crate) fn batch_done(
    account: &Account,
    csrf: &str,
    done: &[(String, String, Result<String, String>)],
) -> Markup {
    shell(
        "Done",
        None,
        Some((account, csrf)),
        html! {
            p.small { a href="/" { "← Inbox" } }
            h1 { "What became of them" }
            @if done.is_empty() {
                div.banner.warn { strong { "Nothing was ticked" } "Go back, and tick what you have read." }
            }
            ul.list {
                @for (id, title, result) in done {
                    li.card {
                        a.title href={ "/approvals/" (id) } { (title) }
                        @match result {
                            Ok(what) => div.meta { span.chip.approved { (what) } },
                            Err(why) => div.meta { span.chip.denied { "nothing" } span { (sentence(why)) } },
                        }
                    }
                }
            }
        },
    )
}

fn fact<'a>(approval: &'a Approval, label: &str) -> Option<&'a str> {
    let found = approval.facts.iter().find(|fact| fact.label == label);
    found.map(|fact| fact.value.as_str())
}
