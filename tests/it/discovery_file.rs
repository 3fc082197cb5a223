//! A list of nodes in a file that operators and programs edit.

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

const TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster that watches a file.
struct Listed {
    cluster: Cluster<Nowhere>,
    handle: DiscoveryHandle,
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
        let source = FileList::new(&path).interval(Duration::from_millis(20)).unwrap();
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(20)).unwrap();
        let handle = discovery::watch_with(&cluster, source, |node| node.endpoint(Nowhere), backoff);
        Listed { cluster, handle, folder }
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
        let reached = timeout(TIMEOUT, self.handle.wait_until(|_| self.ids() == ids)).await;
        assert!(reached.is_ok(), "{:?} did not become {ids:?}: {:?}", self.ids(), self.handle.status());
    }

    /// Waits for a failure whose message contains `text`.
    async fn fails(&self, text: &str) {
        let test = |status: &discovery::DiscoveryStatus| {
            status.source == SourceState::Failing && status.error.as_ref().is_some_and(|error| error.contains(text))
        };
        let reached = timeout(TIMEOUT, self.handle.wait_until(test)).await;
        assert!(reached.is_ok(), "no {text:?}: {:?}", self.handle.status());
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
    // Equal length, and perhaps an equal modification time.
    list.write("d:1\nb:1\n");
    list.has(&["d:1", "b:1"]).await;
    rename_over(&list.path(), "e:1\n");
    list.has(&["e:1"]).await;
}

#[tokio::test]
async fn an_invalid_lost_or_empty_list_keeps_the_last_one_and_reports_the_error() {
    let list = Listed::new(None);
    list.fails("nodes.txt is unavailable: No such file").await;
    list.write("a:1\nb:1\n");
    list.has(&["a:1", "b:1"]).await;

    list.write("a:1\nc:1 wieght=2\n");
    list.fails("nodes.txt:2:5 is invalid: \"wieght=2\" is not a setting").await;
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
    timeout(TIMEOUT, list.handle.wait_until(|status| status.source == SourceState::Empty)).await.unwrap();
    assert_eq!(list.ids(), ["a:1", "b:1"]);
    list.write("c:1\n");
    list.has(&["c:1"]).await;
}

#[tokio::test]
async fn a_half_written_list_is_not_used() {
    let list = Listed::new(Some("a:1\nb:1\n"));
    list.has(&["a:1", "b:1"]).await;
    loop {
        // A writer that writes in place: between its two writes, the file is a valid list of one
        // node.
        let path = list.path();
        let writer = tokio::task::spawn_blocking(move || {
            let (started, mut longest) = (SystemClock.now(), Duration::ZERO);
            for number in (1..60_000).cycle() {
                let began = SystemClock.now();
                let mut file = std::fs::File::create(&path).unwrap();
                writeln!(file, "a:{number}").unwrap();
                writeln!(file, "b:{number}").unwrap();
                let written = SystemClock.now();
                longest = longest.max(written - began);
                if written - started > Duration::from_millis(700) {
                    return (number, longest);
                }
            }
            unreachable!()
        });
        let (mut seen, before) = (Vec::new(), list.handle.status().updates);
        let all = list.handle.wait_until(|status| {
            seen.push(list.ids());
            writer.is_finished() && status.updates > before
        });
        timeout(TIMEOUT, all).await.unwrap();
        let (last, longest) = writer.await.unwrap();
        list.has(&[&format!("a:{last}"), &format!("b:{last}")]).await;
        // A list that stays the same for 100 ms is used. If the writer paused for that long, the
        // attempt shows nothing.
        if longest < Duration::from_millis(100) {
            assert!(seen.iter().all(|ids| ids.len() == 2), "{seen:?}");
            break;
        }
    }
}
