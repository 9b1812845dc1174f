//! What a chat message says of a request: the facts of the page, shortened, and where it stands.
use std::cell::Cell;

use syshold_protocol::{
    Approver, Decision, Lifespan, OutcomeResult, RequestPhase, Scope, UnixMs, display,
};

use crate::desk::Sheet;
use crate::render;
use crate::store::notices::Notice;

/// Escaped, and short enough for any chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    /// Such as `support-bot asks: connect`.
    pub title: String,
    pub host: String,
    pub object: String,
    pub why: String,
    /// At most ten.
    pub fields: Vec<(&'static str, String)>,
    /// Short, to say aloud.
    pub code: String,
    /// Identical holds that one approval covers.
    pub waiting: u32,
    /// When the answer that is asked for comes too late.
    pub until: UnixMs,
    /// What the agent says about itself. Shown last, labelled as unverified.
    pub unverified: Option<String>,
    /// Something was cut: no Approve button beside this.
    pub hidden: bool,
    /// The page of the inbox.
    pub link: String,
    /// Where it stands, once there is something to say.
    pub standing: Option<Standing>,
    /// Which channels did not take it.
    pub trouble: Vec<String>,
}

/// Where a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub mark: Mark,
    pub text: String,
}

/// For people who look at the colour first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Open,
    Good,
    Bad,
    Over,
}

impl Summary {
    /// Of `sheet`, for a message that links to `inbox_url`.
    pub(super) fn new(sheet: &Sheet, inbox_url: &str, before: &[Notice]) -> Self {
        let request = &sheet.filed.request;
        let hidden = Cell::new(false);
        let short = |raw: &str, most| {
            let shown = display::shown(raw, most);
            hidden.set(hidden.get() | shown.hidden);
            shown.text
        };
        // Escaped already: only the cut is wanted.
        let cut = |text: String, most| {
            let shown = display::shorten(&text, most);
            hidden.set(hidden.get() | shown.hidden);
            shown.text
        };
        let agent = short(&request.agent.name, 80);
        let object = match &request.action.exec {
            Some(_) => render::title(request),
            None => render::object(&request.action.object),
        };
        let mut fields = vec![
            ("Host", short(&sheet.filed.host_name, 200)),
            ("Action", request.action.kind.as_str().to_owned()),
            ("Program", cut(render::command(&request.process.argv), 900)),
        ];
        if let Some(taint) = &request.taint {
            // The readings are in the inbox: Slack takes ten fields.
            let last = taint
                .readings
                .last()
                .map(|last| format!("; last {}", last.what));
            let read = format!("{}{}", taint.classes.join(", "), last.unwrap_or_default());
            fields.push(("Has read before", short(&read, 300)));
        }
        if !request.data.classes.is_empty() {
            fields.push(("Data", short(&request.data.classes.join(", "), 200)));
        }
        fields.push(("Rule", short(&request.policy.title, 200)));
        fields.push(("Risk", render::risk(request.risk).to_owned()));
        let owner = request.agent.owner.as_ref();
        fields.push((
            "Owner",
            owner.map_or_else(|| "unknown".to_owned(), |owner| short(owner.as_str(), 200)),
        ));
        if sheet.rendered.need > 1 {
            fields.push(("People needed", sheet.rendered.need.to_string()));
        }
        let failed = before
            .iter()
            .filter_map(|notice| Some((&notice.channel, notice.error.as_ref()?)));
        let title = cut(format!("{agent} asks: {}", request.action.kind), 150);
        let object = cut(object, 1500);
        let why = short(&request.policy.why, 600);
        let unverified = request.agent_reason.as_deref().map(|text| short(text, 300));
        Self {
            title,
            host: display::shown(&sheet.filed.host_name, 100).text,
            object,
            why,
            fields,
            code: render::short_code(request),
            waiting: request.waiting,
            until: match sheet.filed.phase {
                RequestPhase::Waiting => request.hold_until,
                _ => sheet.filed.late_until,
            },
            unverified,
            hidden: hidden.get() || render::is_cut(request),
            link: format!("{inbox_url}/approvals/{}", request.request_id),
            standing: standing(sheet),
            trouble: failed
                .take(3)
                .map(|(channel, error)| format!("{channel} did not take this: {error}"))
                .collect(),
        }
    }
}

fn standing(sheet: &Sheet) -> Option<Standing> {
    let (mark, text) = match sheet.filed.phase {
        RequestPhase::Waiting if sheet.have == 0 && sheet.escalated.is_empty() => return None,
        RequestPhase::Waiting => {
            let said = [escalated(sheet), so_far(sheet)];
            let said: Vec<_> = said.into_iter().flatten().collect();
            (Mark::Open, said.join(" "))
        }
        RequestPhase::Late => {
            let so_far = so_far(sheet).unwrap_or_default();
            let text = format!(
                "The hold is over: the call has failed. An approval is still good for one retry. {so_far}"
            );
            (Mark::Open, text.trim_end().to_owned())
        }
        RequestPhase::Approved => {
            let mark = match &sheet.revoked {
                Some(_) => Mark::Over,
                None => Mark::Good,
            };
            let text = format!(
                "{}Approved{} by {}. {}",
                revoked(sheet).unwrap_or_default(),
                sheet.decision.as_ref().map(granted).unwrap_or_default(),
                people(sheet.decision.as_ref()),
                applied(sheet)
            );
            (mark, text)
        }
        RequestPhase::Denied => (
            Mark::Bad,
            format!(
                "Denied by {}. {}",
                people(sheet.decision.as_ref()),
                applied(sheet)
            ),
        ),
        RequestPhase::Expired => (
            Mark::Over,
            "Expired: nobody decided in time, and the call failed.".to_owned(),
        ),
        RequestPhase::Withdrawn => (
            Mark::Over,
            "Withdrawn: the process has gone or has given up.".to_owned(),
        ),
    };
    Some(Standing { mark, text })
}

fn so_far(sheet: &Sheet) -> Option<String> {
    (sheet.have > 0).then(|| {
        format!(
            "{} of {} approvals: {}.",
            sheet.have,
            sheet.rendered.need,
            names(&sheet.votes)
        )
    })
}

/// Who took the approval back. What it let through before stays done.
fn revoked(sheet: &Sheet) -> Option<String> {
    let by = &sheet.revoked.as_ref()?.by;
    let reason = by.reason.as_deref().unwrap_or_default();
    Some(format!(
        "Taken back by {}: “{}”. What it had let through stays done. ",
        names(std::slice::from_ref(by)),
        display::shown(reason, 200).text
    ))
}

/// Who is asked as well, because nobody has answered.
fn escalated(sheet: &Sheet) -> Option<String> {
    let groups: Vec<_> = sheet
        .escalated
        .iter()
        .map(|(group, _)| group.as_str())
        .collect();
    let (_, since) = sheet.escalated.first()?;
    let asked = sheet
        .filed
        .request
        .policy
        .approvers
        .as_deref()
        .unwrap_or("anybody");
    Some(format!(
        "Asked of {} too since {since}: nobody of {} had answered.",
        groups.join(", "),
        display::shown(asked, 80).text
    ))
}

fn people(decision: Option<&Decision>) -> String {
    match decision.map(|decision| decision.approvers.as_slice()) {
        None | Some([]) => "the gateway's own rule".to_owned(),
        Some(approvers) => {
            let reason = approvers
                .iter()
                .find_map(|approver| approver.reason.as_deref());
            let reason = reason.map_or_else(String::new, |reason| {
                format!(": “{}”", display::shown(reason, 200).text)
            });
            format!("{}{reason}", names(approvers))
        }
    }
}

fn names(approvers: &[Approver]) -> String {
    let names: Vec<_> = approvers
        .iter()
        .map(|approver| display::shown(approver.subject.as_str(), 80).text)
        .collect();
    names.join(", ")
}

fn granted(decision: &Decision) -> String {
    let Some(grant) = &decision.grant else {
        return String::new();
    };
    let words = match (grant.lifespan, grant.max_uses, grant.expires_at) {
        (Lifespan::Single, Some(uses), _) => render::scope(Scope::Once, uses),
        (Lifespan::Process, _, _) => render::scope(Scope::Process, 1),
        (Lifespan::Session, _, _) => render::scope(Scope::Session, 1),
        (_, _, Some(until)) => format!("until {until}"),
        _ => return String::new(),
    };
    format!(" {words}")
}

/// Done is what the kernel has done.
fn applied(sheet: &Sheet) -> String {
    let Some(outcome) = &sheet.outcome else {
        return "The host has not applied it yet.".to_owned();
    };
    let after = format!("after {} s", outcome.held_ms / 1000);
    match outcome.result {
        OutcomeResult::Resumed => format!("Applied: the call went on {after}."),
        OutcomeResult::Denied => format!("Applied: the call failed {after}."),
        OutcomeResult::Expired => "The hold had ended on the host before this arrived.".to_owned(),
        OutcomeResult::Late => "The host keeps it for one retry.".to_owned(),
        OutcomeResult::RefusedStale => {
            "Refused by the host: the process or the object is no longer the one shown.".to_owned()
        }
        OutcomeResult::RefusedDecision => {
            "Refused by the host: the decision did not pass its own checks.".to_owned()
        }
        OutcomeResult::ProcessGone => "The process has gone.".to_owned(),
    }
}
