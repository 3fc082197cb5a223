//! kylinpy, a Python client that is in use, through the front end with demo nodes of every version.

use std::path::PathBuf;
use std::process::Command;

use kylin_lb::testing::kylin::{Dialect, KylinNode, Metastore};

use crate::support::dialects::is_v5;
use crate::support::front::{self, Front, closed_port};
use crate::support::skip;

/// Returns the interpreter of the virtual environment that `tests/run` creates
/// (`$KYLIN_LB_PYTHON`).
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("KYLIN_LB_PYTHON").map(PathBuf::from).filter(|path| path.is_file());
    skip::installed("kylinpy (tests/run installs it, KYLIN_LB_PYTHON names its Python)", python.is_some());
    python
}

/// Runs kylinpy with three nodes behind a front end, with each of `api_versions`.
async fn use_kylinpy(version: Dialect, api_versions: &[&str]) {
    let Some(python) = python() else { return };
    let metastore = Metastore::new();
    let mut nodes = Vec::new();
    for name in ["q1", "q2", "q3"] {
        let node = KylinNode::new(name).kylin_version(version).metastore(&metastore);
        let served = node.serve(closed_port()).await.unwrap();
        nodes.push((node, served));
    }
    let addresses: Vec<_> = nodes.iter().map(|(_, served)| served.addr()).collect();
    let front = Front::kylin(front::endpoints(&addresses), |proxy| proxy);
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kylinpy/client.py");
    let mut command = Command::new(python);
    command.arg(program).arg("127.0.0.1").arg(front.address().port().to_string()).args(api_versions);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.trim() == "ok", "{out}{err}");
    for (node, _) in &nodes {
        assert!(node.stats().queries > 0, "{} ran no query", node.name());
    }
}

#[tokio::test]
async fn kylinpy_logs_in_lists_and_queries_on_kylin_2_to_4() {
    for dialect in Dialect::ALL.into_iter().filter(|dialect| !is_v5(*dialect)) {
        use_kylinpy(dialect, &["v1", "v2"]).await;
    }
}

#[tokio::test]
async fn kylinpy_logs_in_lists_and_queries_on_kylin_5() {
    use_kylinpy(Dialect::V5_0, &["v2", "v4"]).await;
}
