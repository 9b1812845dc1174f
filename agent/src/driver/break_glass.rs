//! Break-glass: an order is checked, recorded, put in force, and told to everybody, in this order.
use std::sync::Arc;
use std::time::Duration;

use syshold_ledger::{Draft, Kind};
use syshold_protocol::break_glass::{self, Accepted, Notice, Refusal as OrderRefusal, Terms};
use syshold_protocol::ids::{Digest, Subject};
use syshold_protocol::{Approver, Assurance, Channel, VERSION};

use super::report::timestamp;
use super::{Driver, Input, compose, now, wall};
use crate::approver;
use crate::control::{Asked, Call, Refusal, Reply};
use crate::gate::{self, Approval, MOST_ORDERS, Order};
use crate::policy::{Policy, Verdict};
use crate::request::AgentId;

/// An order on its way into force.
#[derive(Debug)]
pub(super) struct Breaking {
    accepted: Accepted,
    order: Order,
    /// Under which it was accepted.
    policy: Digest,
    asked: Asked,
}

/// Why an order does nothing on this host.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Order(#[from] OrderRefusal),
    #[error("this host is not enrolled, so no order can name it: run `syshold enrol`")]
    NotEnrolled,
    #[error("there is no agent {0:?} in the policy")]
    Agent(String),
    #[error("there is no rule {0:?} that asks")]
    Rule(String),
    #[error("{MOST_ORDERS} orders are in force: end them first (`syshold break-glass end`)")]
    TooMany,
}

impl Driver {
    /// What somebody brings; nothing changes before it is in the ledger.
    pub(super) fn break_glass(&mut self, asked: Asked) {
        let Call::BreakGlass { order: envelope } = &asked.call else {
            return;
        };
        if asked.peer.uid != 0 {
            let text = "only root may bring an order";
            return asked.answer(Reply::refused(Refusal::Permission, text));
        }
        let envelope = envelope.clone();
        match self.judged(envelope.as_bytes()) {
            Ok((accepted, order)) => {
                // Used from here on, whatever becomes of it.
                self.used.insert(accepted.order.order_id);
                let leaf =
                    compose::break_glass_leaf(&accepted, &envelope, &order.approval, &self.policy);
                let breaking = Box::new(Breaking {
                    accepted,
                    order,
                    policy: self.policy.digest(),
                    asked,
                });
                self.commit(leaf, move |result| Input::Ordered(breaking, result));
            }
            Err(why) => {
                let why = why.to_string();
                tracing::error!(why, "a break-glass order was refused");
                self.record_aside(Draft::new(Kind::BreakGlass).field("refused", &why));
                asked.answer(Reply::refused(Refusal::Failed, format!("refused: {why}")));
            }
        }
    }

    fn judged(&self, envelope: &[u8]) -> Result<(Accepted, Order), Unusable> {
        let gateway = self.approver.as_ref().map(approver::Approver::gateway);
        let host_id = &gateway.ok_or(Unusable::NotEnrolled)?.host_id;
        let terms = Terms {
            host_id,
            keys: self.policy.break_glass(),
        };
        let used = &self.used;
        let own = |agent: &str, who: &Subject| self.is_own(agent, who);
        let accepted =
            break_glass::accept(envelope, &terms, wall(), &|id| used.contains(id), &own)?;
        let agent = known(&self.policy, &accepted)?;
        if self.gate.orders().count() >= MOST_ORDERS {
            return Err(Unusable::TooMany);
        }
        let order = Order {
            agent,
            rules: accepted.order.rules.clone(),
            ends: now() + Duration::from_millis(accepted.ttl_ms),
            approval: Arc::new(Approval {
                decision_id: accepted.order.order_id,
                approvers: signers(&accepted),
                envelope: envelope.to_vec(),
                request: None,
            }),
        };
        Ok((accepted, order))
    }

    /// Whether somebody owns that agent or launched what runs of it.
    fn is_own(&self, agent: &str, who: &Subject) -> bool {
        let Some(id) = self.policy.agent_id(agent) else {
            return false;
        };
        let owns = self.policy.agent(id).is_some_and(|a| a.owner.may_be(who));
        let launched = self
            .launched
            .iter()
            .any(|(root, by)| by.may_be(who) && self.kernel.governs(root.tgid) == Some(id));
        owns || launched
    }

    /// The leaf is durable: now it is in force.
    pub(super) fn ordered(&mut self, breaking: Breaking, recorded: Result<(), String>) {
        let Breaking {
            accepted,
            order,
            policy,
            asked,
        } = breaking;
        if let Err(error) = recorded {
            tracing::error!(%error, "a break-glass order could not be recorded: it is not in force");
            let text = format!("it could not be recorded, so it is not in force: {error}");
            return asked.answer(Reply::refused(Refusal::Failed, text));
        }
        if policy != self.policy.digest() {
            let text = "another policy came into force meanwhile: sign another order";
            return asked.answer(Reply::refused(Refusal::Policy, text));
        }
        let groups = self.policy.groups_asked(order.agent, &order.rules);
        self.gate_step(gate::Input::Ordered(order));
        let names: Vec<_> = accepted.signers.iter().map(Subject::as_str).collect();
        let (who, said) = (names.join(", "), &accepted.order);
        tracing::error!(
            agent = said.agent,
            by = who,
            reason = said.reason,
            until = %said.until,
            "BREAK-GLASS: what this agent asks is let through"
        );
        let text = format!(
            "In force until {}: what {} asks is let through.\nEverybody who would have been asked is told; the order is in the ledger.",
            timestamp(now() + Duration::from_millis(accepted.ttl_ms)),
            said.agent
        );
        if let Some(approver) = &self.approver {
            approver.break_glass(Notice {
                v: VERSION,
                host_id: said.host_id.clone(),
                order: said.clone(),
                signers: accepted.signers.clone(),
                groups,
                at: wall(),
            });
        }
        asked.answer(Reply::Done { text });
    }

    pub(super) fn end_break_glass(&mut self, asked: Asked) {
        if asked.peer.uid != 0 {
            let text = "only root may end an order";
            return asked.answer(Reply::refused(Refusal::Permission, text));
        }
        let ended: Vec<_> = self
            .gate
            .orders()
            .map(|order| order.approval.decision_id.to_string())
            .collect();
        let text = match ended.len() {
            0 => "No order is in force.".to_owned(),
            many => format!("Ended: {many}. People are asked again."),
        };
        if !ended.is_empty() {
            self.gate_step(gate::Input::OrdersOver);
            tracing::warn!("break-glass is over");
            self.record_aside(Draft::new(Kind::BreakGlass).field("ended", &ended));
        }
        asked.answer(Reply::Done { text });
    }

    /// For `status`, one sentence each.
    pub(super) fn orders_in_force(&self) -> Vec<String> {
        let now = now();
        let sentence = |order: &Order| {
            let people = &order.approval.approvers;
            let names: Vec<_> = people.iter().map(|one| one.subject.as_str()).collect();
            format!(
                "BREAK-GLASS: what {} asks is ALLOWED until {}, by order of {}",
                self.agent_name(order.agent),
                timestamp(order.ends),
                names.join(", ")
            )
        };
        let live = self.gate.orders().filter(|order| now < order.ends);
        live.map(sentence).collect()
    }

    /// Whether `who` signed an order that is in force for that agent.
    pub(super) fn ordered_by(&self, agent: AgentId, who: &Subject) -> bool {
        let now = now();
        let mut live = self.gate.orders().filter(|order| now < order.ends);
        live.any(|order| {
            let mut people = order.approval.approvers.iter();
            order.agent == agent && people.any(|one| one.subject.may_be(who))
        })
    }
}

/// The agent, when the policy has it and every rule that is named asks.
fn known(policy: &Policy, accepted: &Accepted) -> Result<AgentId, Unusable> {
    let order = &accepted.order;
    let agent = policy
        .agent_id(&order.agent)
        .ok_or_else(|| Unusable::Agent(order.agent.clone()))?;
    let asks = |name: &String| {
        let rule = policy.rules().iter().find(|rule| rule.name == *name);
        rule.is_some_and(|rule| matches!(rule.verdict, Verdict::Ask(_)))
    };
    match order.rules.iter().find(|name| !asks(name)) {
        Some(name) => Err(Unusable::Rule(name.clone())),
        None => Ok(agent),
    }
}

fn signers(accepted: &Accepted) -> Vec<Approver> {
    let one = |subject: &Subject| Approver {
        subject: subject.clone(),
        channel: Channel::Cli,
        team_id: None,
        user_id: None,
        assurance: Assurance::Token,
        at: accepted.order.from,
        reason: Some(accepted.order.reason.clone()),
        standing: Some("break-glass".to_owned()),
        proof: None,
    };
    accepted.signers.iter().map(one).collect()
}
