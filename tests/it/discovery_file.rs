//! A list of nodes in a file that people and programs edit.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kylin_lb::Cluster;
use kylin_lb::clock::{Clock, SystemClock};
use kylin_lb::discovery::{self, Backoff, DiscoveryHandle, FileList, SourceState};
use kylin_lb::endpoint::AdminState;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::cluster::Nowhere;

const PATIENCE: Duration = Duration::from_secs(20);

struct Listed {
    cluster: Cluster<Nowhere>,
    follow: DiscoveryHandle,
    folder: TempDir,
}

impl Listed {
    fn new(text: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes.txt");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let cluster = Cluster::builder().build().unwrap();
        let source = FileList::new(&path).interval(Duration::from_millis(20));
        let backoff = Backoff { first: Duration::from_millis(10), most: Duration::from_millis(20) };
        let follow = discovery::watch_with(&cluster, source, |found| found.endpoint(Nowhere), backoff);
        Listed { cluster, follow, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("nodes.txt")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn ids(&self) -> Vec<String> {
        self.cluster.status().endpoints.iter().map(|endpoint| endpoint.id.to_string()).collect()
    }

    async fn has(&self, ids: &[&str]) {
        let came = timeout(PATIENCE, self.follow.wait_until(|_| self.ids() == ids)).await;
        assert!(came.is_ok(), "{:?} did not become {ids:?}: {:?}", self.ids(), self.follow.status());
    }

    /// Waits for a failure whose text holds this.
    async fn fails(&self, what: &str) {
        let test = |status: &discovery::DiscoveryStatus| {
            status.source == SourceState::Failing && status.error.as_ref().is_some_and(|error| error.contains(what))
        };
        let came = timeout(PATIENCE, self.follow.wait_until(test)).await;
        assert!(came.is_ok(), "no {what:?}: {:?}", self.follow.status());
    }
}

fn rename_over(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_list_is_read_and_read_again_when_it_changes() {
    let list = Listed::new(Some("# two nodes\nb:1 weight=3\na:1 role=query drain id=a\n"));
    list.has(&["b:1", "a"]).await;
    let status = list.cluster.status();
    assert_eq!((status.endpoints[0].weight, status.endpoints[1].admin_state), (3, AdminState::Drain));
    assert_eq!(status.endpoints[1].roles.to_string(), "query");
    list.write("c:1\nb:1\n");
    list.has(&["c:1", "b:1"]).await;
    // Of the same length, and perhaps in the same tick of the file system's clock.
    list.write("d:1\nb:1\n");
    list.has(&["d:1", "b:1"]).await;
    rename_over(&list.path(), "e:1\n");
    list.has(&["e:1"]).await;
}

#[tokio::test]
async fn a_bad_or_lost_or_empty_list_keeps_the_last_one_and_says_what_is_wrong() {
    let list = Listed::new(None);
    list.fails("nodes.txt is unavailable: No such file").await;
    list.write("a:1\nb:1\n");
    list.has(&["a:1", "b:1"]).await;

    list.write("a:1\nc:1 wieght=2\n");
    list.fails("nodes.txt:2:5 makes no sense: \"wieght=2\" is not known").await;
    list.write("a:1\n\u{0}\u{1}\n");
    list.fails("nodes.txt:2:1").await;
    std::fs::write(list.path(), b"a:1\n\xff\xff").unwrap();
    list.fails("utf-8").await;
    std::fs::write(list.path(), vec![b'#'; 2 * 1024 * 1024]).unwrap();
    list.fails("longer than").await;
    std::fs::remove_file(list.path()).unwrap();
    list.fails("No such file").await;
    std::fs::create_dir(list.path()).unwrap();
    list.fails("not a regular file").await;
    std::fs::remove_dir(list.path()).unwrap();
    assert_eq!(list.ids(), ["a:1", "b:1"]);

    list.write("# all commented out\n");
    timeout(PATIENCE, list.follow.wait_until(|status| status.source == SourceState::Empty)).await.unwrap();
    assert_eq!(list.ids(), ["a:1", "b:1"]);
    list.write("c:1\n");
    list.has(&["c:1"]).await;
}

#[tokio::test]
async fn a_list_that_is_being_written_is_not_believed() {
    let list = Listed::new(Some("a:1\nb:1\n"));
    list.has(&["a:1", "b:1"]).await;
    // A writer in place: what is there between its two writes is a valid list, of one node.
    let path = list.path();
    let writer = tokio::task::spawn_blocking(move || {
        let begun = SystemClock.now();
        for number in (1..60_000).cycle() {
            let mut file = std::fs::File::create(&path).unwrap();
            writeln!(file, "a:{number}").unwrap();
            writeln!(file, "b:{number}").unwrap();
            if SystemClock.now() - begun > Duration::from_millis(700) {
                return number;
            }
        }
        unreachable!()
    });
    let mut seen = Vec::new();
    let all = list.follow.wait_until(|status| {
        seen.push(list.ids());
        writer.is_finished() && status.told > 1
    });
    timeout(PATIENCE, all).await.unwrap();
    let last = writer.await.unwrap();
    assert!(seen.iter().all(|ids| ids.len() == 2), "{seen:?}");
    list.has(&[&format!("a:{last}"), &format!("b:{last}")]).await;
}
