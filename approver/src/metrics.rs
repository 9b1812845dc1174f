//! What the gateway counts, as OpenMetrics text on a listener of its own: `GET /metrics`.
//!
//! Labels are words of this program and names from the configuration: nothing a host, an agent or a
//! person can make up, and no secret.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use syshold_protocol::{Decision, Outcome, UnixMs};

use crate::desk::Desk;
use crate::http;
use crate::store::requests;

const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    verdict: &'static str,
    channel: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabel {
    channel: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelResultLabel {
    channel: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    state: &'static str,
}

/// Everything counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<ResultLabel, Counter<u64, AtomicU64>>,
    decisions: Family<DecisionLabel, Counter<u64, AtomicU64>>,
    answer_time: Histogram,
    outcomes: Family<ResultLabel, Counter<u64, AtomicU64>>,
    notices: Family<ChannelResultLabel, Counter<u64, AtomicU64>>,
    channel_up: Family<ChannelLabel, Gauge<i64, AtomicI64>>,
    undelivered: Counter<u64, AtomicU64>,
    quiet: Counter<u64, AtomicU64>,
    escalated: Counter<u64, AtomicU64>,
    revoked: Counter<u64, AtomicU64>,
    broke_glass: Counter<u64, AtomicU64>,
    clicks: Family<ChannelResultLabel, Counter<u64, AtomicU64>>,
    connected: Family<ChannelLabel, Gauge<i64, AtomicI64>>,
    undecided: Family<PhaseLabel, Gauge<i64, AtomicI64>>,
    unrecorded: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("syshold_approver");
        let answer_time = Histogram::new([
            1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
        ]);
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            decisions: Family::default(),
            answer_time: answer_time.clone(),
            outcomes: Family::default(),
            notices: Family::default(),
            channel_up: Family::default(),
            undelivered: Counter::default(),
            quiet: Counter::default(),
            escalated: Counter::default(),
            revoked: Counter::default(),
            broke_glass: Counter::default(),
            clicks: Family::default(),
            connected: Family::default(),
            undecided: Family::default(),
            unrecorded: Gauge::default(),
        };
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The program", Info::new(version));
        registry.register(
            "requests",
            "Requests that hosts filed, by what became of that",
            metrics.requests.clone(),
        );
        registry.register(
            "decisions",
            "Decisions signed, by verdict and by where the last person answered",
            metrics.decisions.clone(),
        );
        registry.register_with_unit(
            "answer_time",
            "From a request's arrival to a decision by people",
            Unit::Seconds,
            answer_time,
        );
        registry.register(
            "outcomes",
            "What hosts say a decision came to",
            metrics.outcomes.clone(),
        );
        registry.register(
            "notices",
            "Messages to channels, and whether they were taken",
            metrics.notices.clone(),
        );
        registry.register(
            "channel_up",
            "Whether the channel took the last message",
            metrics.channel_up.clone(),
        );
        registry.register(
            "undelivered",
            "Requests that no channel took",
            metrics.undelivered.clone(),
        );
        registry.register(
            "quiet",
            "Requests nobody was told of because their agent asks too often",
            metrics.quiet.clone(),
        );
        registry.register(
            "escalations",
            "Fallback groups that were told because nobody had answered",
            metrics.escalated.clone(),
        );
        registry.register(
            "revocations",
            "Approvals that people took back",
            metrics.revoked.clone(),
        );
        registry.register(
            "break_glass",
            "Orders by which a host let an agent through without asking",
            metrics.broke_glass.clone(),
        );
        registry.register(
            "clicks",
            "Clicks in chats, by what became of them",
            metrics.clicks.clone(),
        );
        registry.register(
            "connected",
            "Whether Slack's Socket Mode is connected",
            metrics.connected.clone(),
        );
        registry.register(
            "undecided_requests",
            "Requests now, by state",
            metrics.undecided.clone(),
        );
        registry.register(
            "unrecorded_entries",
            "Requests, decisions and revocations that the ledger does not have yet, at most 768",
            metrics.unrecorded.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A host filed a request.
    pub(crate) fn filed(&self, result: &'static str) {
        self.requests.get_or_create(&ResultLabel { result }).inc();
    }

    /// A decision was made on what arrived at `received`.
    pub(crate) fn decided(&self, decision: &Decision, received: UnixMs) {
        let last = decision.approvers.last();
        let channel = last.map_or("none", |approver| {
            crate::store::report::channel_word(approver.channel)
        });
        let verdict = decision.verdict.as_str();
        self.decisions
            .get_or_create(&DecisionLabel { verdict, channel })
            .inc();
        if last.is_some() {
            self.answer_time
                .observe(decision.issued_at.since(received) as f64 / 1000.0);
        }
    }

    /// A host says what came of a decision.
    pub(crate) fn outcome(&self, outcome: &Outcome) {
        let result = crate::evidence::word(outcome.result);
        self.outcomes.get_or_create(&ResultLabel { result }).inc();
    }

    /// A channel was given a message.
    pub(crate) fn notice(&self, channel: &str, taken: bool) {
        let result = if taken { "sent" } else { "failed" };
        let channel = channel.to_owned();
        self.notices
            .get_or_create(&ChannelResultLabel {
                channel: channel.clone(),
                result,
            })
            .inc();
        self.channel_up
            .get_or_create(&ChannelLabel { channel })
            .set(i64::from(taken));
    }

    /// No channel of a route took a message.
    pub(crate) fn undelivered(&self) {
        self.undelivered.inc();
    }

    /// Nobody is told of a request.
    pub(crate) fn quiet(&self) {
        self.quiet.inc();
    }

    /// Nobody has answered, and a fallback group is told.
    pub(crate) fn escalated(&self) {
        self.escalated.inc();
    }

    /// Somebody took an approval back.
    pub(crate) fn revoked(&self) {
        self.revoked.inc();
    }

    /// A host lets an agent through without asking.
    pub(crate) fn broke_glass(&self) {
        self.broke_glass.inc();
    }

    /// Somebody clicked.
    pub(crate) fn click(&self, channel: &str, result: &'static str) {
        let channel = channel.to_owned();
        self.clicks
            .get_or_create(&ChannelResultLabel { channel, result })
            .inc();
    }

    /// Socket Mode came or went.
    pub(crate) fn connected(&self, channel: &str, up: bool) {
        let channel = channel.to_owned();
        self.connected
            .get_or_create(&ChannelLabel { channel })
            .set(i64::from(up));
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The routes of the listener.
pub fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .fallback(http::no_path)
        .method_not_allowed_fallback(http::no_method)
        .with_state(desk)
}

async fn scrape(State(desk): State<Arc<Desk>>) -> Response {
    match desk.store.run(requests::counts).await {
        Ok(counts) => {
            for (state, count) in counts.undecided {
                let gauge = desk.metrics.undecided.get_or_create(&PhaseLabel { state });
                gauge.set(count);
            }
            desk.metrics.unrecorded.set(counts.unrecorded);
        }
        Err(error) => {
            tracing::error!(%error, "metrics");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    }
    match desk.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
