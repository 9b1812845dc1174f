//! Break-glass orders in force.
use super::Gate;
use super::ruling::{Basis, Ruling};
use super::types::{Cause, Granted, Hold, Order};
use crate::request::HoldId;
use crate::rules::Reason;
use syshold_protocol::decision::Lifespan;

/// More at once than that is a way of working, not an emergency.
pub const MOST_ORDERS: usize = 8;

impl Order {
    fn covers(&self, hold: &Hold, reason: &Reason) -> bool {
        self.agent == hold.request.agent
            && (self.rules.is_empty() || self.rules.contains(&reason.rule))
    }
}

impl Gate {
    /// The orders in force.
    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.iter()
    }

    /// What waits is covered, too. Full: nothing changes, people go on being asked.
    pub(super) fn ordered(&mut self, order: Order) {
        if order.ends <= self.now || self.orders.len() >= MOST_ORDERS {
            return;
        }
        self.orders.push(order);
        let waiting: Vec<HoldId> = self
            .pending
            .iter()
            .filter(|held| self.pending.find_waiting(held.hold.id).is_some())
            .map(|held| held.hold.id)
            .collect();
        for id in waiting {
            let ruling = self
                .pending
                .find(id)
                .and_then(|held| self.by_order(&held.hold, &held.reason));
            if let Some(ruling) = ruling {
                self.decide_and_leave(id, ruling);
            }
        }
    }

    /// The ruling of an order that covers the hold.
    pub(super) fn by_order(&self, hold: &Hold, reason: &Reason) -> Option<Ruling> {
        let order = self
            .orders
            .iter()
            .find(|order| order.covers(hold, reason))?;
        Some(Ruling::ordered(Basis {
            request: None,
            granted: Some(Granted {
                lifespan: Lifespan::Until,
                uses: None,
                ends: order.ends,
            }),
            approval: order.approval.clone(),
        }))
    }

    pub(super) fn end_orders(&mut self) {
        let now = self.now;
        self.orders.retain(|order| now < order.ends);
    }
}

impl Ruling {
    fn ordered(basis: Basis) -> Self {
        Self {
            by: super::By::BreakGlass,
            ..Self::grant(basis, Cause::Ordered)
        }
    }
}
