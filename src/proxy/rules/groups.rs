//! Finds the resource group of a request by its project.

use std::borrow::Cow;
use std::sync::Arc;

use http::Request;
use serde::Deserialize;

use crate::balance::Attempted;
use crate::body::Body;
use crate::kylin::ResourceGroups;
use crate::kylin::class::RequestClass;
use crate::kylin::resource_groups::has_group;

/// Returns the endpoints that may serve the request: those in the group of its project, if the
/// project has a group. `project` is the project of the query, if it was read.
pub(crate) fn within_group(
    groups: &ResourceGroups,
    class: RequestClass,
    project: Option<String>,
    request: &Request<Body>,
) -> Attempted {
    if !has_group(class) {
        return Attempted::none();
    }
    let project = project.or_else(|| in_body(request)).or_else(|| in_target(request));
    match project.and_then(|project| groups.group_of(class, &project)) {
        Some(group) => Attempted::within(Arc::clone(&group)),
        None => Attempted::none(),
    }
}

/// Returns the project in a JSON body.
fn in_body(request: &Request<Body>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'b> {
        #[serde(borrow)]
        project: Cow<'b, str>,
    }
    let body = request.body().whole().filter(|body| body.first() == Some(&b'{'))?;
    serde_json::from_slice(body).ok().map(|Named { project }| project.into_owned())
}

/// Returns the project in the query of the target.
fn in_target(request: &Request<Body>) -> Option<String> {
    let parameters = form_urlencoded::parse(request.uri().query()?.as_bytes());
    let named = parameters.into_iter().find(|(name, _)| matches!(&**name, "project" | "projectName"));
    named.map(|(_, project)| project.into_owned())
}
