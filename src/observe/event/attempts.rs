use std::ops::{Deref, DerefMut};

use super::Attempt;

/// The attempts of a request in order. Nearly all requests have only one, which needs no
/// allocation.
#[derive(Default)]
pub(in crate::observe) struct Attempts {
    /// The only attempt.
    only: Option<Attempt>,
    /// All attempts, if there are several.
    several: Vec<Attempt>,
}

impl Attempts {
    pub(in crate::observe) fn push(&mut self, attempt: Attempt) {
        if self.is_empty() {
            self.only = Some(attempt);
        } else {
            self.several.extend(self.only.take());
            self.several.push(attempt);
        }
    }
}

impl Deref for Attempts {
    type Target = [Attempt];

    fn deref(&self) -> &[Attempt] {
        match &self.only {
            Some(_) => self.only.as_slice(),
            None => &self.several,
        }
    }
}

impl DerefMut for Attempts {
    fn deref_mut(&mut self) -> &mut [Attempt] {
        match &self.only {
            Some(_) => self.only.as_mut_slice(),
            None => &mut self.several,
        }
    }
}
