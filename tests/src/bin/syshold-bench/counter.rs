//! The guest's instruction counter, and what is made of many readings.
#![expect(unsafe_code, reason = "rdtsc is an intrinsic")]

/// Instructions so far: QEMU's time-stamp counter runs at 1 GHz of virtual time, and with
/// `-icount shift=0` an instruction takes a nanosecond of that.
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 processor has it, and user space may read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    pub(crate) fn push(&mut self, spent: u64) {
        self.0.push(spent);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = sorted.len().saturating_sub(1) * percent / 100;
        sorted.get(place).copied().unwrap_or_default()
    }
}
