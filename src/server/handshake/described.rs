use http::{Request, Response};

use crate::body::Body;
use crate::request::{ClientAddr, LocalAddr};
use crate::server::Handler;
use crate::server::accept::{CurrentHandler, SharedServing};
use crate::server::limits::Limits;

/// Adds the known facts about a connection to its requests.
pub(super) struct Described<H> {
    current: SharedServing<H>,
    local: Option<LocalAddr>,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::TlsConnection>,
}

impl<H: Handler> Described<H> {
    pub(super) fn new(current: SharedServing<H>, local: Option<LocalAddr>) -> Self {
        Described {
            current,
            local,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn tls(self, tls: crate::tls::TlsConnection) -> Self {
        Described { tls: Some(tls), ..self }
    }

    /// Returns the handler of the connection. A reload replaces the handler inside it.
    pub(super) fn handler(self, limits: Limits) -> CurrentHandler<Self> {
        CurrentHandler::fixed(self, limits)
    }
}

impl<H: Handler> Handler for Described<H> {
    fn handle(&self, peer: ClientAddr, mut request: Request<Body>) -> impl Future<Output = Response<Body>> + Send {
        let extensions = request.extensions_mut();
        if let Some(local) = self.local {
            extensions.insert(local);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            extensions.insert(tls.clone());
        }
        let serving = self.current.load_full();
        async move { serving.handler.handle(peer, request).await }
    }

    fn trusts(&self, peer: ClientAddr) -> bool {
        self.current.load().handler.trusts(peer)
    }
}
