//! The client of the remote approver.
