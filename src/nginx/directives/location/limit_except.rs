//! `limit_except`: a separate location for requests with other methods
//! (`ngx_http_update_location_config`).

use http::Method;

use super::Location;
use crate::nginx::syntax::{Directive, Fault};

/// The location of requests with methods that `limit_except` does not name.
///
/// It replaces the surrounding location before the steps run, so no `rewrite`, `if` or `return`
/// bypasses the rules of the block.
#[derive(Debug, Clone)]
pub(crate) struct LimitExcept {
    methods: Vec<Method>,
    pub(super) location: Box<Location>,
}

impl LimitExcept {
    /// Reads a block. `read` turns its directives into a location.
    pub(super) fn read(
        directive: &Directive,
        read: impl FnOnce(Vec<&Directive>) -> Result<Location, Fault>,
    ) -> Result<LimitExcept, Fault> {
        let mut methods = Vec::new();
        for word in &directive.args {
            let method = Method::from_bytes(word.text.to_ascii_uppercase().as_bytes())
                .map_err(|_| word.invalid("method", "GET, POST ..."))?;
            // As in nginx, GET includes HEAD.
            methods.extend((method == Method::GET).then_some(Method::HEAD));
            methods.push(method);
        }
        let (Some(block), false) = (&directive.block, methods.is_empty()) else {
            return Err(directive
                .span()
                .value("limit_except takes methods and a block", "limit_except METHOD... { deny all; }"));
        };
        let allowed = ["allow", "deny", "auth_basic", "auth_basic_user_file", "proxy_pass"];
        if let Some(other) = block.iter().find(|inner| !allowed.iter().any(|name| inner.is(name))) {
            let message = format!("\"{}\" in limit_except is not supported", other.name.text);
            let expected = "allow ADDRESS|all; deny ADDRESS|all; auth_basic or proxy_pass";
            return Err(other.span().unsupported(message, expected));
        }
        Ok(LimitExcept { methods, location: Box::new(read(block.iter().collect())?) })
    }

    /// Returns whether the block does not apply to a method.
    fn exempts(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }
}

impl Location {
    /// Returns the location for requests with a method.
    pub(crate) fn for_method(&self, method: &Method) -> &Location {
        match &self.limit_except {
            Some(limit) if !limit.exempts(method) => &limit.location,
            Some(_) | None => self,
        }
    }
}
