//! Where people are told that somebody is asked.
//!
//! ```text
//!  filed ──▶ dispatch (how often may this agent ask?) ──▶ first channel of the group's route
//!                                                             │ did not take it: said in the log,
//!                                                             ▼ a metric, the inbox and the next message
//!  nobody answers ──▶ escalate: the route of the fallback group, in the same way
//!  changed ──▶ follow: messages that can be changed are      next channel … ──▶ the inbox alone
//! ```
//! One worker a channel, so that a slow one holds up nobody else. Nothing here decides: a click is
//! an answer of its person to the desk, like any other.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use syshold_protocol::{Digest, RequestId, RequestPhase, UnixMs};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::desk::{Desk, Sheet};
use crate::host_api::now;
use crate::limits::{Prompt, Prompts};
use crate::store::notices::{self, Buttons, Notice, Place};
pub use alert::Alert;
use config::{Channels, Kind as KindConfig};
use http::Patience;
pub use http::{ChannelError, Undelivered};
use summary::Summary;

mod alert;
pub mod config;
mod escalate;
mod follow;
mod glass;
pub(crate) mod http;
pub mod slack;
mod slack_webhook;
mod summary;
mod teams;
mod webhook;

/// How often what other gateways left is looked for, where several share the state.
const OTHERS: Duration = Duration::from_secs(5);
/// Chats take about one message a second.
const PACE: Duration = Duration::from_secs(1);
/// More than so many at once are one message.
const MAX_AT_ONCE: usize = 3;
/// How many jobs wait for one channel.
const QUEUE: usize = 1024;

/// Every channel, and what they share.
#[expect(missing_debug_implementations, reason = "holds tokens and the desk")]
pub struct Hub {
    desk: Arc<Desk>,
    inbox_url: String,
    settings: Channels,
    channels: Vec<Channel>,
    prompts: std::sync::Mutex<Prompts>,
}

struct Channel {
    name: String,
    kind: Kind,
    queue: mpsc::Sender<Job>,
}

enum Kind {
    Slack(slack::Slack),
    SlackWebhook(slack_webhook::SlackWebhook),
    Teams(teams::Teams),
    Webhook(webhook::Webhook),
}

#[derive(Debug, Clone)]
enum Job {
    Announce(Errand),
    /// Say what has become of it.
    Follow(RequestId),
    Alert {
        alert: Alert,
        group: Option<String>,
        step: usize,
    },
}

/// Tell of a request.
#[derive(Debug, Clone)]
struct Errand {
    id: RequestId,
    /// The fallback group that is told; `None`: the group of the rule.
    to: Option<String>,
    /// Counts the channels of the route.
    step: usize,
}

impl Errand {
    fn to(&self) -> Option<&str> {
        self.to.as_deref()
    }
}

/// What a channel keeps of a message.
#[derive(Debug, Default)]
struct Sent {
    place: Option<Place>,
    buttons: Option<Buttons>,
}

/// The receiving ends of every channel's queue, to be given to [`Hub::run`].
#[derive(Debug)]
pub struct Queues(Vec<mpsc::Receiver<Job>>);

impl Hub {
    /// Opens every channel; none is called yet.
    pub fn open(
        settings: &Channels,
        inbox_url: &str,
        desk: Arc<Desk>,
        prompts: Prompts,
    ) -> Result<(Arc<Self>, Queues), ChannelError> {
        let (mut channels, mut queues) = (Vec::new(), Vec::new());
        for named in &settings.channels {
            let name = named.name.as_str();
            let kind = match &named.kind {
                KindConfig::Slack(slack) => {
                    Kind::Slack(slack::Slack::open(name, slack, inbox_url)?)
                }
                KindConfig::SlackWebhook(url) => {
                    Kind::SlackWebhook(slack_webhook::SlackWebhook::open(name, url, inbox_url)?)
                }
                KindConfig::Teams(url) => Kind::Teams(teams::Teams::open(name, url, inbox_url)?),
                KindConfig::Webhook(hook) => Kind::Webhook(webhook::Webhook::open(name, hook)?),
            };
            let (queue, jobs) = mpsc::channel(QUEUE);
            channels.push(Channel {
                name: named.name.clone(),
                kind,
                queue,
            });
            queues.push(jobs);
        }
        let hub = Self {
            desk,
            inbox_url: inbox_url.to_owned(),
            settings: settings.clone(),
            channels,
            prompts: std::sync::Mutex::new(prompts),
        };
        Ok((Arc::new(hub), Queues(queues)))
    }

    /// Tells of each request that `filed` names, and of what becomes of it, until `stop`.
    pub async fn run(
        self: Arc<Self>,
        queues: Queues,
        mut filed: mpsc::Receiver<RequestId>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut tasks = JoinSet::new();
        if self.channels.is_empty() {
            // The inbox alone: nothing is looked up for nobody.
            let hub = Arc::clone(&self);
            tasks.spawn(async move { while filed.recv().await.is_some() {} });
            tasks.spawn(async move {
                loop {
                    hub.desk.changes.next().await;
                }
            });
            drop(stop.wait_for(|stop| *stop).await);
            return tasks.shutdown().await;
        }
        for (index, jobs) in queues.0.into_iter().enumerate() {
            tasks.spawn(Arc::clone(&self).work(index, jobs));
            if matches!(self.channels[index].kind, Kind::Slack(_)) {
                tasks.spawn(slack::run(Arc::clone(&self), index));
            }
        }
        tasks.spawn(Arc::clone(&self).alarms());
        tasks.spawn(Arc::clone(&self).dispatch(filed));
        tasks.spawn(Arc::clone(&self).follow_changes());
        drop(stop.wait_for(|stop| *stop).await);
        tasks.shutdown().await;
    }

    /// The channel of that name, if it is a Slack app.
    fn slack(&self, name: &str) -> Option<(usize, &slack::Slack)> {
        let index = self.channels.iter().position(|c| c.name == name)?;
        match &self.channels[index].kind {
            Kind::Slack(slack) => Some((index, slack)),
            _ => None,
        }
    }

    /// New requests, after those that a restart left untold.
    async fn dispatch(self: Arc<Self>, mut filed: mpsc::Receiver<RequestId>) {
        let mut due = self.next_escalation().await;
        match self.desk.store.run(notices::untold).await {
            Ok(left) => {
                for id in left {
                    due = earlier(due, self.fresh(id).await);
                }
            }
            Err(error) => tracing::error!(%error, "requests of before the start are not told of"),
        }
        let mut others = tokio::time::interval(OTHERS);
        loop {
            tokio::select! {
                _ = others.tick(), if self.desk.shared => {
                    for id in self.of_others().await {
                        due = earlier(due, self.fresh(id).await);
                    }
                    due = self.next_escalation().await;
                    self.desk.alarm.notify_one();
                }
                id = filed.recv() => match id {
                    Some(id) => due = earlier(due, self.fresh(id).await),
                    None => return,
                },
                () = escalate::wait_until(due) => {
                    self.escalate().await;
                    due = self.next_escalation().await;
                }
            }
        }
    }

    /// Requests that a gateway which is gone told nobody of.
    async fn of_others(&self) -> Vec<RequestId> {
        let taken = self.desk.store.run(notices::take_over).await;
        taken.unwrap_or_else(|error| {
            tracing::error!(%error, "what other gateways left untold is told later");
            Vec::new()
        })
    }

    /// Tells of a request; when somebody else is to be told, if nobody answers.
    async fn fresh(&self, id: RequestId) -> Option<UnixMs> {
        let sheet = match self.desk.sheet(id, now()).await {
            Ok(Some(sheet)) if sheet.filed.phase == RequestPhase::Waiting => sheet,
            Ok(_) => return None,
            Err(error) => {
                tracing::error!(%id, %error, "no notification");
                return None;
            }
        };
        let request = &sheet.filed.request;
        let group = request.policy.approvers.as_deref();
        let prompt = self
            .prompts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .ask(now(), &request.host_id, &request.agent.name);
        if prompt == Prompt::Show {
            self.pass_on(&sheet, None, 0).await;
            return self.plan(&sheet).await;
        }
        tracing::warn!(%id, host = %request.host_id, agent = request.agent.name, "no notification: this agent asks too often");
        self.desk.metrics.quiet();
        let why = Undelivered("this agent asks too often".to_owned());
        if let Some(first) = self.settings.route(group).first() {
            self.keep_failure(*first, id, &why).await;
        }
        if prompt == Prompt::Alert {
            let alert = Alert::TooOften {
                agent: request.agent.name.clone(),
                host: sheet.filed.host_name.clone(),
            };
            self.alert_on(alert, request.policy.approvers.clone(), 0);
        }
        None
    }

    fn route(&self, sheet: &Sheet, to: Option<&str>) -> &[usize] {
        let group = sheet.filed.request.policy.approvers.as_deref();
        self.settings.route(to.or(group))
    }

    /// Gives a request to the channel at `step` of its route, or to the next whose queue has room.
    async fn pass_on(&self, sheet: &Sheet, to: Option<&str>, step: usize) {
        let (id, route) = (sheet.filed.request.request_id, self.route(sheet, to));
        for (step, index) in route.iter().enumerate().skip(step) {
            let to = to.map(str::to_owned);
            let job = Job::Announce(Errand { id, to, step });
            if self.channels[*index].queue.try_send(job).is_ok() {
                return;
            }
            let why = Undelivered("too many messages wait for it".to_owned());
            self.keep_failure(*index, id, &why).await;
        }
        if !route.is_empty() {
            self.desk.metrics.undelivered();
            tracing::error!(%id, to, "no channel took the notification: the request is in the inbox only");
        }
    }

    fn alert_on(&self, alert: Alert, group: Option<String>, step: usize) {
        let route = self.settings.route(group.as_deref());
        for (step, index) in route.iter().enumerate().skip(step) {
            let (alert, group) = (alert.clone(), group.clone());
            let job = Job::Alert { alert, group, step };
            if self.channels[*index].queue.try_send(job).is_ok() {
                return;
            }
        }
        tracing::error!(%alert, "no channel took the alert");
    }

    async fn keep_failure(&self, index: usize, id: RequestId, why: &Undelivered) {
        let notice = Notice {
            request: id,
            channel: self.channels[index].name.clone(),
            at: now(),
            error: Some(why.to_string()),
            place: None,
            buttons: None,
            shown: None,
        };
        self.keep(notice).await;
    }

    async fn keep(&self, notice: Notice) {
        let id = notice.request;
        if let Err(error) = self
            .desk
            .store
            .run(move |tx| notices::put(tx, &notice))
            .await
        {
            tracing::error!(%id, %error, "what a channel was told is not kept");
        }
    }

    /// One channel's jobs, in order.
    async fn work(self: Arc<Self>, index: usize, mut jobs: mpsc::Receiver<Job>) {
        let channel = &self.channels[index];
        while let Some(first) = jobs.recv().await {
            let mut now_due = vec![first];
            while let Ok(next) = jobs.try_recv() {
                now_due.push(next);
            }
            let mut fresh = Vec::new();
            let mut followed = BTreeSet::new();
            for job in now_due {
                match job {
                    Job::Announce(errand) => fresh.push(errand),
                    Job::Follow(id) if followed.insert(id.0) => {
                        if let Err(error) = self.follow(channel, id).await {
                            tracing::warn!(%id, channel = channel.name, %error, "a message was not brought up to date");
                        }
                    }
                    Job::Follow(_) => {}
                    Job::Alert { alert, group, step } => {
                        self.alert(index, &alert, group, step).await;
                        tokio::time::sleep(PACE).await;
                    }
                }
            }
            self.announce_all(index, fresh).await;
        }
    }

    async fn announce_all(&self, index: usize, fresh: Vec<Errand>) {
        let mut waiting = Vec::new();
        for errand in fresh {
            match self.desk.sheet(errand.id, now()).await {
                Ok(Some(sheet)) if sheet.filed.phase == RequestPhase::Waiting => {
                    waiting.push((sheet, errand));
                }
                Ok(_) => {}
                Err(error) => tracing::error!(id = %errand.id, %error, "no notification"),
            }
        }
        if waiting.len() <= MAX_AT_ONCE || matches!(self.channels[index].kind, Kind::Webhook(_)) {
            for (sheet, errand) in waiting {
                self.announce(index, &sheet, &errand).await;
            }
            return;
        }
        let last = waiting
            .iter()
            .all(|(sheet, errand)| errand.step + 1 >= self.route(sheet, errand.to()).len());
        let alert = Alert::Flood(waiting.len());
        let result = self.send_alert(index, &alert, patience(last)).await;
        for (sheet, errand) in waiting {
            let id = errand.id;
            match &result {
                Ok(()) => {
                    let notice = told(&self.channels[index].name, id, Sent::default(), None);
                    self.keep(notice).await;
                }
                Err(why) => {
                    self.keep_failure(index, id, why).await;
                    self.pass_on(&sheet, errand.to(), errand.step + 1).await;
                }
            }
        }
        tokio::time::sleep(PACE).await;
    }

    async fn announce(&self, index: usize, sheet: &Sheet, errand: &Errand) {
        let channel = &self.channels[index];
        let (id, step) = (errand.id, errand.step);
        let route = self.route(sheet, errand.to());
        let patience = patience(step + 1 >= route.len());
        let before = sheet.notices.iter().filter(|n| n.channel != channel.name);
        let before: Vec<_> = before.cloned().collect();
        let summary = Summary::new(sheet, &self.inbox_url, &before);
        let mut shown = None;
        let sent = match &channel.kind {
            Kind::Slack(slack) => match slack.announce(sheet, &summary, patience).await {
                Ok((sent, digest)) => {
                    shown = Some(digest);
                    Ok(sent)
                }
                Err(why) => Err(why),
            },
            Kind::SlackWebhook(hook) => hook
                .announce(&summary, patience)
                .await
                .map(|()| Sent::default()),
            Kind::Teams(teams) => teams
                .announce(&summary, patience)
                .await
                .map(|()| Sent::default()),
            Kind::Webhook(hook) => hook
                .announce(sheet, &summary, patience)
                .await
                .map(|()| Sent::default()),
        };
        self.desk.metrics.notice(&channel.name, sent.is_ok());
        match sent {
            Ok(sent) => self.keep(told(&channel.name, id, sent, shown)).await,
            Err(why) => {
                let next = route
                    .get(step + 1)
                    .map(|next| self.channels[*next].name.as_str());
                tracing::warn!(%id, channel = channel.name, %why, next, "a channel did not take the notification");
                self.keep_failure(index, id, &why).await;
                self.pass_on(sheet, errand.to(), step + 1).await;
            }
        }
        // What happened meanwhile was not followed: there was no message yet.
        self.desk.changes.add(id);
        if !matches!(channel.kind, Kind::Webhook(_)) {
            tokio::time::sleep(PACE).await;
        }
    }

    async fn alert(&self, index: usize, alert: &Alert, group: Option<String>, step: usize) {
        let last = step + 1 >= self.settings.route(group.as_deref()).len();
        if let Err(why) = self.send_alert(index, alert, patience(last)).await {
            tracing::warn!(channel = self.channels[index].name, %why, %alert, "a channel did not take the alert");
            self.alert_on(alert.clone(), group, step + 1);
        }
    }

    async fn send_alert(
        &self,
        index: usize,
        alert: &Alert,
        patience: Patience,
    ) -> Result<(), Undelivered> {
        let channel = &self.channels[index];
        let sent = match &channel.kind {
            Kind::Slack(slack) => slack.alert(alert, patience).await,
            Kind::SlackWebhook(hook) => hook.alert(alert, patience).await,
            Kind::Teams(teams) => teams.alert(alert, patience).await,
            Kind::Webhook(hook) => hook.alert(alert, patience).await,
        };
        self.desk.metrics.notice(&channel.name, sent.is_ok());
        sent
    }
}

fn told(channel: &str, request: RequestId, sent: Sent, shown: Option<Digest>) -> Notice {
    Notice {
        request,
        channel: channel.to_owned(),
        at: now(),
        error: None,
        place: sent.place,
        buttons: sent.buttons,
        shown,
    }
}

/// The earlier of two times that may not be.
fn earlier(one: Option<UnixMs>, other: Option<UnixMs>) -> Option<UnixMs> {
    one.into_iter().chain(other).min()
}

fn patience(last: bool) -> Patience {
    if last {
        Patience::LONG
    } else {
        Patience::SHORT
    }
}
