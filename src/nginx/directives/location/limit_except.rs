//! `limit_except`: requests with other methods have a location of their own (`ngx_http_update_location_config`).

use http::Method;

use super::Location;
use crate::nginx::syntax::{Directive, Fault};

/// The location of requests with other methods than those of `limit_except`. It replaces the one around it before that runs its steps, so
/// no `rewrite`, `if` or `return` leads a request past the rules of the block.
#[derive(Debug, Clone)]
pub(crate) struct LimitExcept {
    methods: Vec<Method>,
    pub(super) location: Box<Location>,
}

impl LimitExcept {
    /// Reads a block. `read` makes its location of the directives in it.
    pub(super) fn read(
        directive: &Directive,
        read: impl FnOnce(Vec<&Directive>) -> Result<Location, Fault>,
    ) -> Result<LimitExcept, Fault> {
        let mut methods = Vec::new();
        for word in &directive.args {
            let method = Method::from_bytes(word.text.to_ascii_uppercase().as_bytes())
                .map_err(|_| word.invalid("method", "GET, POST ..."))?;
            // nginx: with GET, HEAD is allowed too.
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

    /// Returns whether the block is not for requests with a method.
    fn exempts(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }
}

impl Location {
    /// Returns the location as requests with a method have it.
    pub(crate) fn for_method(&self, method: &Method) -> &Location {
        match &self.limit_except {
            Some(limit) if !limit.exempts(method) => &limit.location,
            Some(_) | None => self,
        }
    }
}
