//! The codes and phrases with which Kylin rejects a request.
//!
//! Codes are those of Kylin 5 (kylin5 core-common ErrorCodeServer and ServerErrorCode). Phrases are
//! those of Message.java and CnMessage.java in 2.x-5.x; their language follows the client's.

use super::{ClusterFault, Rejection, ResponseClass};

/// Returns the code at the beginning of a text: `KE-040023202`, even if a message follows as in
/// `KE-040023202(Query): …`.
fn code_of(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let digits = text.strip_prefix("KE-")?.bytes().take_while(u8::is_ascii_digit).count();
    (digits >= 9).then(|| &text[..3 + digits])
}

/// Classifies a response by the code at the beginning of a text.
pub(super) fn class_by_code(text: &str) -> Option<ResponseClass> {
    Some(match code_of(text)? {
        // A job node was asked for a query, or this role does not have the API.
        "KE-040023202" | "KE-040023201" | "KE-040023203" => ResponseClass::Rejected(Rejection::Role),
        // Too busy, or degraded by its guardian.
        "KE-020032001" => ResponseClass::Rejected(Rejection::Busy),
        "KE-040024201" => ResponseClass::ClusterFault(ClusterFault::Maintenance),
        "KE-010021002" | "KE-040021201" => ResponseClass::ClusterFault(ClusterFault::Recovering),
        "KE-010021003" => ResponseClass::ClusterFault(ClusterFault::Transfer),
        "KE-010021004" => ResponseClass::ClusterFault(ClusterFault::NoActiveNode),
        "KE-010021006" => ResponseClass::ClusterFault(ClusterFault::UserSource),
        "KE-010019002" => ResponseClass::ClusterFault(ClusterFault::Metastore),
        _ => return None,
    })
}

/// Returns why a message rejects a query. The phrase must be the whole message, because an error
/// may quote the user's text.
pub(super) fn rejection_by_message(message: &str) -> Option<Rejection> {
    // Kylin 5 may put its code before the message.
    let text = match code_of(message) {
        Some(code) => message.trim_start()[code.len()..].split_once(": ").map_or(message, |(_, text)| text),
        None => message,
    };
    match text.trim() {
        "Too many concurrent query requests."
        | "并发查询请求太多。"
        | "Can’t submit query at the moment as there are too many ongoing queries. Please try again later, or contact project admin to adjust configuration."
        | "查询请求数量超过上限，无法提交。请稍后再试，或联系项目管理员修改设置。" => {
            Some(Rejection::Busy)
        }
        "Job node is not available for queries."
        | "Job node is unavailable for queries. Please select a query node."
        | "任务节点不支持查询"
        | "任务节点不支持查询。请选择查询节点。" => Some(Rejection::Role),
        text => {
            let english = text.strip_prefix("Query is not allowed in '").and_then(|rest| rest.strip_suffix("' mode."));
            let mode = english.or_else(|| text.strip_prefix('\'')?.strip_suffix("' 模式不支持查询"))?;
            // `job`, or in 3.1 a list such as `job,stream_coordinator`.
            let is_mode = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | ',' | ' ');
            mode.chars().all(is_mode).then_some(Rejection::Role)
        }
    }
}
