//! Several requests of one kind (one agent, one rule), each pointed at, each judged on its own.
use std::sync::Arc;

use axum::Form;
use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use syshold_protocol::{Assurance, Digest, RequestId, RequestPhase, Scope};

use super::{MOST, Page, Session, Visitor, page, pages, unreadable};
use crate::desk::Desk;
use crate::host_api::now;
use crate::http::Fault;
use crate::judge::Answer;
use crate::people_api::{Approval, clean_reason};

/// How many may be ticked: nobody has read more.
const MOST_PICKED: usize = 20;

/// The routes.
pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new().route("/batch", get(show).post(decide))
}

#[derive(Deserialize)]
struct Kind {
    agent: String,
    rule: String,
}

async fn show(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    Query(kind): Query<Kind>,
) -> Result<Response, Page> {
    let Session { account, csrf } = visitor.signed_in("/")?;
    let sheets = desk
        .sheets(vec![RequestPhase::Waiting], MOST, now())
        .await?;
    let approvals: Vec<_> = sheets
        .into_iter()
        .map(|sheet| Approval::new(sheet, &account, Assurance::Passkey))
        .filter(|a| a.agent == kind.agent && a.rule == kind.rule && a.may_deny)
        .take(MOST_PICKED)
        .collect();
    let batch = pages::Batch {
        account: &account,
        csrf: &csrf,
        agent: &kind.agent,
        rule: &kind.rule,
        approvals: &approvals,
        now: now(),
    };
    Ok(page(StatusCode::OK, pages::batch(&batch)))
}

/// A form in which one name may come often.
#[derive(Default)]
struct Picked {
    csrf: String,
    kind: (String, String),
    verb: String,
    reason: String,
    picks: Vec<(RequestId, Digest)>,
}

impl Picked {
    fn read(form: Vec<(String, String)>) -> Result<Self, Fault> {
        let wrong = || Fault::unacceptable("the form does not read; load the page again");
        let mut picked = Self::default();
        for (name, value) in form {
            match name.as_str() {
                "csrf" => picked.csrf = value,
                "agent" => picked.kind.0 = value,
                "rule" => picked.kind.1 = value,
                "verb" => picked.verb = value,
                "reason" => picked.reason = value,
                "pick" => {
                    let (id, shown) = value.split_once(':').ok_or_else(wrong)?;
                    let pick = id.parse().ok().zip(shown.parse().ok());
                    picked.picks.push(pick.ok_or_else(wrong)?);
                }
                _ => return Err(wrong()),
            }
        }
        if picked.picks.len() > MOST_PICKED {
            return Err(Fault::unacceptable(format!(
                "at most {MOST_PICKED} at once"
            )));
        }
        Ok(picked)
    }
}

async fn decide(
    State(desk): State<Arc<Desk>>,
    visitor: Visitor,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Result<Response, Page> {
    let Form(form) = form.map_err(unreadable)?;
    let picked = Picked::read(form)?;
    let session = visitor.posting(&picked.csrf)?;
    let reason = clean_reason(&picked.reason)?;
    let approve = match picked.verb.as_str() {
        "approve" => true,
        "deny" if reason.is_none() => {
            return Err(
                Fault::unacceptable("a denial needs a reason; go back and give one").into(),
            );
        }
        "deny" => false,
        _ => return Err(Fault::unacceptable("approve or deny").into()),
    };
    let mut done = Vec::new();
    for (id, rendered) in picked.picks {
        let Some(sheet) = desk.sheet(id, now()).await? else {
            continue;
        };
        let approval = Approval::new(sheet, &session.account, Assurance::Session);
        let scope = Scope::Once;
        let answer = if approve {
            Answer::Approve { scope, rendered }
        } else {
            Answer::Deny
        };
        let voice = super::voice(&session, reason.clone(), None);
        // Only what was on that page: a batch is of one kind.
        let kind = (&approval.agent, &approval.rule);
        let result = if kind == (&picked.kind.0, &picked.kind.1) {
            let answered = desk.answer(id, voice, answer, now()).await;
            answered.map_err(|error| Fault::from(error).into_parts().1)
        } else {
            Err("it is not of this kind".to_owned())
        };
        let word = if approve { "approved once" } else { "denied" };
        let result = result.map(|_step| word.to_owned());
        done.push((id.to_string(), approval.title, result));
    }
    let Session { account, csrf } = &session;
    Ok(page(
        StatusCode::OK,
        pages::batch_done(account, csrf, &done),
    ))
}
