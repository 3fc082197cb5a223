use std::fmt;
use std::future::Future;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::action::Hooks;
use super::monitored::Monitored;
use super::traffic::Traffic;
use super::{Admin, AdminToken, Shared};
use crate::buffer::BufferBudget;
use crate::clock::{Clock, SystemClock};
use crate::setting::InvalidSetting;

/// Builds an [`Admin`].
#[must_use]
pub struct AdminBuilder {
    path: String,
    hosts: Vec<String>,
    token: Option<AdminToken>,
    token_for_reading: bool,
    hooks: Hooks,
    buffers: BufferBudget,
}

impl AdminBuilder {
    pub(super) fn new() -> Self {
        AdminBuilder {
            path: String::new(),
            hosts: Vec::new(),
            token: None,
            token_for_reading: false,
            hooks: Hooks::default(),
            buffers: BufferBudget::process(),
        }
    }

    /// Sets the path of the page, for example `/front/admin`. Default: `/`, which is also right for
    /// a router that strips the prefix under which it mounts a service. A trailing `/` makes no
    /// difference.
    ///
    /// # Errors
    /// [`InvalidSetting`] if the path does not begin with `/`.
    pub fn path(mut self, path: impl Into<String>) -> Result<Self, InvalidSetting> {
        self.path = path.into();
        InvalidSetting::unless(self.path.starts_with('/'), "path", "a path that begins with /")?;
        Ok(self)
    }

    /// Sets the token that actions need, and that makes the status readable from other machines.
    /// Default: none.
    pub fn token(mut self, token: AdminToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets whether reading the status needs the token even on this machine. Default: false. Enable
    /// it, for example, if requests through a proxy on this machine look like those of a local
    /// user.
    pub fn token_for_reading(mut self, on: bool) -> Self {
        self.token_for_reading = on;
        self
    }

    /// Sets further names of this host, in addition to `localhost` and any IP address. Default:
    /// none.
    pub fn hosts(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the budget that the status shows. Default: [`BufferBudget::process`].
    pub fn buffers(mut self, buffers: BufferBudget) -> Self {
        self.buffers = buffers;
        self
    }

    /// Sets the function for the action `reload`. Its future returns the changes, or the reason why
    /// nothing changed, in one line. Default: the action is refused.
    pub fn on_reload<F, R>(mut self, reload: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.hooks.reload = Some(Arc::new(move || Box::pin(reload())));
        self
    }

    /// Sets the function for the action `log-level`. It takes the requested level, and returns an
    /// error if that is invalid. Default: the action is refused.
    pub fn on_log_level(mut self, set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.hooks.log_level = Some(Arc::new(set));
        self
    }

    /// Builds the handler.
    pub fn build(self) -> Admin {
        let AdminBuilder { path, hosts, token, token_for_reading, hooks, buffers } = self;
        Admin {
            shared: Arc::new(Shared {
                path: path.trim_end_matches('/').into(),
                hosts,
                token: RwLock::new(token),
                token_for_reading,
                hooks,
                buffers,
                traffic: Arc::new(Traffic::new(Arc::new(SystemClock))),
                monitored: Mutex::new(Monitored::new()),
                log_level: Mutex::default(),
                denied: Default::default(),
                started: SystemClock.now(),
            }),
        }
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder").field("path", &self.path).finish_non_exhaustive()
    }
}
