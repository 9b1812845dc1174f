//! From a click to an answer: kept first, then checked against everything that is known.
use std::sync::Arc;

use serde_json::{Value, json};
use syshold_protocol::{Assurance, Channel, Risk};

use super::click::{Click, NoClick, What};
use super::message::plain;
use super::{Patience, Slack, message, modal};
use crate::channels::Hub;
use crate::channels::summary::Summary;
use crate::desk::{ChatUser, DeskError, Sheet, Voice};
use crate::host_api::now;
use crate::judge::{Answer, Refusal, Step};
use crate::people_api::{Approval, clean_reason};
use crate::store::StoreError;
use crate::store::notices::{self, Notice, Wish};
use crate::store::people::Account;
use crate::token::Secret;

/// What the caller says to Slack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is kept, or there is nothing to do.
    Yes,
    /// Not now; it comes again.
    Busy,
}

/// Keeps a payload and has it handled. When this returns [`Taken::Yes`], it is not lost any more.
pub(super) async fn take(hub: &Arc<Hub>, index: usize, payload: &[u8]) -> Taken {
    let channel = &hub.channels[index];
    let metrics = &hub.desk.metrics;
    let super::super::Kind::Slack(slack) = &channel.kind else {
        return Taken::Yes;
    };
    let click = match Click::parse(payload) {
        Ok(click) => click,
        Err(NoClick::Idle) => return Taken::Yes,
        Err(NoClick::Unreadable) => {
            metrics.click(&channel.name, "unreadable");
            tracing::warn!(channel = channel.name, "a click that does not read");
            return Taken::Yes;
        }
    };
    if click.app != slack.settings.app || click.team != slack.settings.team {
        metrics.click(&channel.name, "foreign");
        tracing::warn!(
            channel = channel.name,
            app = click.app,
            team = click.team,
            "a click of another app or workspace"
        );
        return Taken::Yes;
    }
    let Ok(slot) = Arc::clone(&slack.clicks).try_acquire_owned() else {
        return Taken::Busy;
    };
    let (id, name, body) = (
        click.trigger_id.clone(),
        channel.name.clone(),
        payload.to_vec(),
    );
    let kept = hub
        .desk
        .store
        .run(move |tx| notices::add_click(tx, &id, &name, &body, now()))
        .await;
    match kept {
        Ok(true) => {
            let hub = Arc::clone(hub);
            tokio::spawn(async move {
                handle(&hub, index, click).await;
                drop(slot);
            });
            Taken::Yes
        }
        Ok(false) => {
            metrics.click(&channel.name, "again");
            Taken::Yes
        }
        Err(error) => {
            tracing::error!(%error, "a click is not kept");
            Taken::Busy
        }
    }
}

/// Clicks that were acknowledged and not handled before a restart.
pub(super) async fn left_over(hub: &Arc<Hub>, index: usize) {
    let name = hub.channels[index].name.clone();
    let open = hub
        .desk
        .store
        .run(move |tx| notices::open_clicks(tx, &name))
        .await;
    match open {
        Ok(open) => {
            for (_, body) in open {
                if let Ok(click) = Click::parse(&body) {
                    handle(hub, index, click).await;
                }
            }
        }
        Err(error) => tracing::error!(%error, "clicks of before the start are lost"),
    }
}

async fn handle(hub: &Hub, index: usize, click: Click) {
    let channel = &hub.channels[index];
    let super::super::Kind::Slack(slack) = &channel.kind else {
        return;
    };
    let id = click.trigger_id.clone();
    let result = match answer(hub, &channel.name, slack, &click).await {
        Ok(done) => done,
        Err(No::Refused(why)) => {
            tracing::info!(
                channel = channel.name,
                user = click.user,
                why,
                "a click did nothing"
            );
            slack.whisper(&click.user, json!([section(&why)])).await;
            "refused"
        }
        Err(No::Unlinked) => {
            ask_to_link(hub, slack, &click).await;
            "unlinked"
        }
        Err(No::Failed(error)) => {
            tracing::error!(channel = channel.name, %error, "a click failed");
            let why = "That did not work: the gateway could not record it. Look at the request in the inbox.";
            slack.whisper(&click.user, json!([section(why)])).await;
            "failed"
        }
    };
    hub.desk.metrics.click(&channel.name, result);
    if let Err(error) = hub
        .desk
        .store
        .run(move |tx| notices::close_click(tx, &id))
        .await
    {
        tracing::error!(%error, "a click stays open");
    }
}

/// Why a click does nothing.
enum No {
    Refused(String),
    Unlinked,
    Failed(DeskError),
}

impl From<StoreError> for No {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<DeskError> for No {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Refused(Refusal::Decided(word)) => {
                Self::Refused(format!("That did nothing: it was {word} already."))
            }
            DeskError::Refused(refusal) => Self::Refused(format!("That did nothing: {refusal}.")),
            DeskError::Decided => {
                Self::Refused("That did nothing: it was decided already.".to_owned())
            }
            DeskError::Unknown => Self::Refused(OLD.to_owned()),
            error => Self::Failed(error),
        }
    }
}

const OLD: &str = "That did nothing: this message is old. Look at the request in the inbox.";

async fn answer(hub: &Hub, name: &str, slack: &Slack, click: &Click) -> Result<&'static str, No> {
    let handle = click.handle.clone();
    let notice = hub
        .desk
        .store
        .run(move |tx| notices::by_handle(tx, &handle))
        .await?;
    let old = || No::Refused(OLD.to_owned());
    let notice = notice
        .filter(|notice| notice.channel == name)
        .ok_or_else(old)?;
    if let What::Approve(place) | What::OpenNarrow(place) | What::OpenDeny(place) = &click.what
        && notice.place.as_ref() != Some(place)
    {
        return Err(old());
    }
    let account = person(hub, slack, click).await?;
    let sheet = hub
        .desk
        .sheet(notice.request, now())
        .await?
        .ok_or_else(old)?;
    match &click.what {
        What::Approve(_) => {
            let scope = syshold_protocol::Scope::Once;
            approve(hub, click, &notice, account, &sheet, scope, None).await
        }
        What::Narrow { scope, reason } => {
            let reason = reason.as_deref().map(clean).transpose()?;
            approve(hub, click, &notice, account, &sheet, *scope, reason).await
        }
        What::Deny { reason } => {
            let reason = Some(clean(reason)?);
            let voice = voice(click, account, reason);
            step(
                hub.desk
                    .answer(notice.request, voice, Answer::Deny, now())
                    .await,
            )
        }
        What::OpenNarrow(_) => {
            let summary = Summary::new(&sheet, &hub.inbox_url, &[]);
            may_approve(&summary, &sheet)?;
            allowed(&sheet, &account, true)?;
            open(slack, click, modal::narrow(&summary, &sheet, &click.handle)).await
        }
        What::OpenDeny(_) => {
            allowed(&sheet, &account, false)?;
            let summary = Summary::new(&sheet, &hub.inbox_url, &[]);
            open(slack, click, modal::deny(&summary, &click.handle)).await
        }
    }
}

/// Who it is: linked once, from a session in the inbox. Names in Slack prove nothing.
async fn person(hub: &Hub, slack: &Slack, click: &Click) -> Result<Account, No> {
    if click.user_team != slack.settings.team {
        return Err(No::Refused(
            "That did nothing: you are of another workspace.".to_owned(),
        ));
    }
    let (team, user) = (click.user_team.clone(), click.user.clone());
    let linked = hub
        .desk
        .store
        .run(move |tx| notices::linked(tx, &team, &user))
        .await?;
    linked.ok_or(No::Unlinked)
}

async fn approve(
    hub: &Hub,
    click: &Click,
    notice: &Notice,
    account: Account,
    sheet: &Sheet,
    scope: syshold_protocol::Scope,
    reason: Option<String>,
) -> Result<&'static str, No> {
    let summary = Summary::new(sheet, &hub.inbox_url, &[]);
    may_approve(&summary, sheet)?;
    // What stood beside the button, not what stands there now: if that differs, it is refused.
    let rendered = notice.buttons.as_ref().map(|buttons| buttons.rendered);
    let rendered = rendered.ok_or_else(|| No::Refused(OLD.to_owned()))?;
    let answer = Answer::Approve { scope, rendered };
    let voice = voice(click, account, reason);
    step(hub.desk.answer(notice.request, voice, answer, now()).await)
}

/// No approval from a chat where something is hidden, or where the risk wants more than a tap.
fn may_approve(summary: &Summary, sheet: &Sheet) -> Result<(), No> {
    if summary.hidden {
        return Err(No::Refused(
            "That did nothing: not everything fits into this message. Approve it in the inbox."
                .to_owned(),
        ));
    }
    if sheet.filed.request.risk == Risk::High {
        return Err(No::Refused(
            "That did nothing: the risk is high. Approve it in the inbox.".to_owned(),
        ));
    }
    Ok(())
}

/// Before a form is filled in for nothing.
fn allowed(sheet: &Sheet, account: &Account, approving: bool) -> Result<(), No> {
    let approval = Approval::new(sheet.clone(), account, Assurance::Chat);
    let may = if approving {
        approval.may_approve
    } else {
        approval.may_deny
    };
    if may {
        return Ok(());
    }
    let why = approval
        .why_not
        .unwrap_or_else(|| "you may not answer this".to_owned());
    Err(No::Refused(format!("That did nothing: {why}.")))
}

fn step(done: Result<Step, DeskError>) -> Result<&'static str, No> {
    Ok(match done? {
        Step::Count => "counted",
        Step::Approve { .. } => "approved",
        Step::Deny => "denied",
    })
}

/// At once: the trigger lives three seconds.
async fn open(slack: &Slack, click: &Click, view: Value) -> Result<&'static str, No> {
    let call = json!({"trigger_id": click.trigger_id, "view": view});
    let patience = Patience {
        attempts: 1,
        ..Patience::SHORT
    };
    match slack.call("views.open", &call, patience).await {
        Ok(_) => Ok("opened"),
        Err(why) => Err(No::Refused(format!(
            "The form did not open ({why}). Answer in the inbox."
        ))),
    }
}

fn voice(click: &Click, account: Account, reason: Option<String>) -> Voice {
    Voice {
        account,
        channel: Channel::Slack,
        assurance: Assurance::Chat,
        reason,
        chat: Some(ChatUser {
            team_id: click.user_team.clone(),
            user_id: click.user.clone(),
        }),
        proof: None,
    }
}

fn clean(reason: &str) -> Result<String, No> {
    let cleaned = clean_reason(reason).ok().flatten();
    cleaned
        .ok_or_else(|| No::Refused("That did nothing: a reason may have 1,000 bytes.".to_owned()))
}

/// A link that only this user sees, good once.
async fn ask_to_link(hub: &Hub, slack: &Slack, click: &Click) {
    let token = Secret::generate("");
    let digest = token.digest();
    let wish = Wish {
        team: click.user_team.clone(),
        user: click.user.clone(),
        name: click.user_name.clone(),
    };
    if let Err(error) = hub
        .desk
        .store
        .run(move |tx| notices::add_wish(tx, digest, &wish, now()))
        .await
    {
        return tracing::error!(%error, "nobody can be linked");
    }
    let link = format!("{}/link/{}", hub.inbox_url, token.reveal());
    let text = "That did nothing: the gateway does not know you yet. Sign in to the inbox and say who you are, once; then click again. The link is for you alone, and good for 15 minutes.";
    let button = json!({
        "type": "actions",
        "elements": [{"type": "button", "action_id": message::DETAILS, "text": plain("Link my account"), "url": link}],
    });
    slack
        .whisper(&click.user, json!([section(text), button]))
        .await;
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": plain(text)})
}
