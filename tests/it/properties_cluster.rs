//! A cluster that is built from Kylin's own files and watches them.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use kylin_lb::discovery::{self, Backoff, DiscoveredNode, DiscoveryHandle, KylinConfig, KylinFile, SourceState};
use kylin_lb::health::{HealthState, Mismatch, Reason};
use kylin_lb::kylin::KylinVersion;
use kylin_lb::kylin::MetadataUrl;
use kylin_lb::probe::MetastoreCheck;
use kylin_lb::testing::kylin::{KylinNode, Metastore, Served};
use kylin_lb::{Cluster, HttpBackend, Proxy};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::front::{Front, closed_port, eventually};
use crate::support::health::status;

const TIMEOUT: Duration = Duration::from_secs(30);
const URL: &str = "prod@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=metastore-secret";

struct Conf(TempDir);

impl Conf {
    fn with(text: &str) -> Self {
        let conf = Conf(tempfile::tempdir().unwrap());
        conf.write(text);
        conf
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("kylin.properties")
    }

    fn override_path(&self) -> PathBuf {
        self.0.path().join("kylin.properties.override")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn file(&self) -> KylinFile {
        KylinFile::new(self.path()).overridden_by(self.override_path()).interval(Duration::from_millis(20)).unwrap()
    }
}

/// Acts like an application.
async fn build(file: KylinFile) -> (Cluster<HttpBackend>, DiscoveryHandle, KylinConfig) {
    let config = file.read().await.unwrap();
    let cluster = Cluster::builder().build().unwrap();
    let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(20)).unwrap();
    let for_endpoints = config.clone();
    let handle =
        discovery::watch_with(&cluster, file, move |node: &DiscoveredNode| for_endpoints.endpoint(node), backoff);
    (cluster, handle, config)
}

async fn node(name: &str, metastore: &Metastore) -> (KylinNode, Served) {
    let node = KylinNode::new(name).kylin_version(KylinVersion::V5).metastore(metastore);
    let served = node.serve(closed_port()).await.unwrap();
    (node, served)
}

fn shown(cluster: &Cluster<HttpBackend>) -> Vec<String> {
    cluster.status().endpoints.iter().map(|of| format!("{} {}", of.id, of.roles)).collect()
}

async fn becomes(cluster: &Cluster<HttpBackend>, handle: &DiscoveryHandle, wanted: &[&str]) {
    eventually(|| shown(cluster) == wanted, || format!("{wanted:?}: {:?} {:?}", shown(cluster), handle)).await;
}

#[tokio::test]
async fn a_cluster_from_kylins_own_file_serves_and_quarantines_foreign_nodes() {
    let digest = MetadataUrl::parse(URL).session_cookie();
    let (right, wrong) =
        (Metastore::new().identity(URL, &digest), Metastore::new().identity("x@jdbc", &"0".repeat(64)));
    let (_q1, s1) = node("q1", &right).await;
    let (q2, s2) = node("q2", &wrong).await;
    let conf = Conf::with(&format!(
        "kylin.metadata.url={URL}\nkylin.server.cluster-servers=ADMIN:KYLIN@{},{}\nkylin.query.timeout-seconds=120\n",
        s1.addr(),
        s2.addr()
    ));
    let (cluster, _handle, config) = build(conf.file()).await;
    assert_eq!(config.head_timeout(), Some(Duration::from_secs(130)));
    let reference = config.metadata_url().unwrap().clone();
    let checks = MetastoreCheck::new().interval(Duration::from_millis(20)).reference(reference);
    let _checker = checks.start(&cluster).unwrap();
    let (one, two) = (s1.addr().to_string(), s2.addr().to_string());
    let checked = || {
        let endpoints = cluster.status().endpoints;
        endpoints.len() == 2 && endpoints.iter().all(|of| of.reason != Some(Reason::Unverified))
    };
    eventually(checked, || format!("{:?}", cluster.status())).await;
    let mismatch = Some(Reason::Quarantined(Mismatch::SessionCookie));
    assert_eq!((status(&cluster, &one).health, status(&cluster, &two).reason), (HealthState::Healthy, mismatch));

    let logins = q2.stats().logins;
    let front = Front::serving(Proxy::plain(cluster.clone()).build().unwrap(), |server| {
        server.threads(NonZero::new(1).unwrap())
    });
    for _ in 0..6 {
        let request = "POST /kylin/api/user/authentication HTTP/1.1\r\nHost: kylin\r\nContent-Length: 0\r\n\
                       Authorization: Basic QURNSU46S1lMSU4=\r\n\r\n";
        assert_eq!(front.ask(request).await.unwrap().status(), 200);
    }
    assert_eq!(q2.stats().logins, logins, "no login reached the foreign node");
    let shown = format!("{config:?} {cluster:?}");
    assert!(!shown.contains("metastore-secret") && !shown.contains("KYLIN@"), "{shown}");
}

#[tokio::test]
async fn changes_of_the_file_and_its_override_apply_and_an_error_changes_nothing() {
    let conf = Conf::with("kylin.server.cluster-servers-with-mode=a:1:query,b:1:job\n");
    let (cluster, handle, _) = build(conf.file()).await;
    becomes(&cluster, &handle, &["a:1 query", "b:1 job"]).await;
    conf.write("kylin.server.cluster-servers-with-mode=a:1:all,c:1:job\n");
    becomes(&cluster, &handle, &["a:1 all", "c:1 job"]).await;
    std::fs::write(conf.override_path(), "kylin.server.cluster-servers-with-mode=d:1:query\n").unwrap();
    becomes(&cluster, &handle, &["d:1 query"]).await;

    let path = conf.override_path().display().to_string();
    for (text, what) in [
        (
            "kylin.server.cluster-servers-with-mode=d:1:chief",
            format!("{path}:1: kylin.server.cluster-servers-with-mode"),
        ),
        ("\nkylin.metadata.url=${META}", format!("{path}:2: kylin.metadata.url: expected a value without variables")),
        ("kylin.x=\\u12", format!("{path}:1: \\u needs four hexadecimal digits")),
    ] {
        std::fs::write(conf.override_path(), text).unwrap();
        let failing =
            |status: &discovery::DiscoveryStatus| status.error.as_ref().is_some_and(|error| error.contains(&what));
        let reached = timeout(TIMEOUT, handle.wait_until(failing)).await;
        assert!(reached.is_ok(), "no {what:?}: {:?}", handle.status());
        assert_eq!(shown(&cluster), ["d:1 query"]);
    }
    std::fs::remove_file(conf.override_path()).unwrap();
    becomes(&cluster, &handle, &["a:1 all", "c:1 job"]).await;
    conf.write("# no nodes\n");
    timeout(TIMEOUT, handle.wait_until(|status| status.source == SourceState::Empty)).await.unwrap();
    assert_eq!(shown(&cluster), ["a:1 all", "c:1 job"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let conf = Conf::with("");
    std::fs::remove_file(conf.path()).unwrap();
    let error = conf.file().read().await.unwrap_err();
    assert!(error.to_string().contains("kylin.properties"), "{error}");
    std::fs::write(conf.path(), b"kylin.x=\xff").unwrap();
    assert!(conf.file().read().await.unwrap_err().to_string().contains("kylin.properties:1"));
    conf.write("");
    assert!(conf.file().read().await.unwrap().nodes().is_empty());
}
