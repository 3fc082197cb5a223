//! The codes and the wording by which Kylin refuses.
//!
//! Codes are of Kylin 5 (kylin5 core-common ErrorCodeServer and ServerErrorCode). Wording is of Message.java and CnMessage.java
//! in 2.x-5.x: the language follows the client's.

use super::{ClusterFault, Rejection};

/// The code at the beginning of a text: `KE-040023202`, also where a message follows as in `KE-040023202(Query): …`.
pub(super) fn code_of(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let digits = text.strip_prefix("KE-")?.bytes().take_while(u8::is_ascii_digit).count();
    (digits >= 9).then(|| &text[..3 + digits])
}

pub(super) fn refusal_by_code(code: &str) -> Option<Rejection> {
    match code {
        // A job node is asked for a query; an API that this role does not have.
        "KE-040023202" | "KE-040023201" | "KE-040023203" => Some(Rejection::Role),
        // Too busy, or degraded by its guardian.
        "KE-020032001" => Some(Rejection::Busy),
        _ => None,
    }
}

pub(super) fn trouble_by_code(code: &str) -> Option<ClusterFault> {
    match code {
        "KE-040024201" => Some(ClusterFault::Maintenance),
        "KE-010021002" | "KE-040021201" => Some(ClusterFault::Recovering),
        "KE-010021003" => Some(ClusterFault::Transfer),
        "KE-010021004" => Some(ClusterFault::NoActiveNode),
        "KE-010019002" => Some(ClusterFault::Metastore),
        _ => None,
    }
}

/// A message that refuses a query. It must be all of the message: an error may quote what the user wrote.
pub(super) fn refusal_by_message(message: &str) -> Option<Rejection> {
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
            let plain = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | ',' | ' ');
            mode.chars().all(plain).then_some(Rejection::Role)
        }
    }
}
