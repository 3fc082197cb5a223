//! A headless Chromium, driven by the DevTools protocol over two pipes, which needs no port and no
//! WebSocket.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::skip::installed;

/// The timeout for one command of the browser, and for a page to show its content. A machine may be
/// busy.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether Chromium is installed: see [`installed`].
pub(crate) fn require_chromium() -> bool {
    let version = Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    installed("chromium", version.is_ok_and(|status| status.success()))
}

/// A page in its own browser. Dropping it ends the browser.
pub(crate) struct Page {
    child: Child,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
    session: Value,
    last_id: u64,
    /// The log of the page: exceptions, errors of the console, and requests that its policy has
    /// blocked.
    pub(crate) errors: Vec<String>,
    _profile: TempDir,
}

impl Page {
    /// Opens `url` in a window of this size.
    pub(crate) async fn open(url: &str, (width, height): (u32, u32)) -> Self {
        let profile = TempDir::new().unwrap();
        // Chromium reads commands from descriptor 3 and writes replies to descriptor 4. `exec`
        // keeps the process id.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh"]);
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(["--disable-background-networking", "--remote-debugging-pipe", "--hide-scrollbars"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut command = tokio::process::Command::from(command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (commands, replies) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (session, last_id, errors) = (Value::Null, 0, Vec::new());
        let mut page = Page { child, commands, replies, session, last_id, errors, _profile: profile };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        page.session = page.call("Target.attachToTarget", attach).await["sessionId"].clone();
        for domain in ["Runtime.enable", "Log.enable", "Page.enable", "Page.bringToFront"] {
            page.call(domain, json!({})).await;
        }
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        page.call("Emulation.setDeviceMetricsOverride", metrics).await;
        page.call("Page.navigate", json!({"url": url})).await;
        page.until("location.href !== 'about:blank' && document.readyState === 'complete'").await;
        page
    }

    /// Returns the value of an expression in the page.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut evaluated = self.call("Runtime.evaluate", params).await;
        assert!(evaluated["exceptionDetails"].is_null(), "{expression}: {evaluated}");
        evaluated["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) async fn until(&mut self, expression: &str) {
        let shown = tokio::time::timeout(TIMEOUT, async {
            while self.eval(expression).await != true {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if shown.await.is_err() {
            let text = self.eval("document.body.innerText").await;
            panic!("did not come: {expression}; errors {:?}; the page shows {text}", self.errors);
        }
    }

    /// Clicks with the mouse in the middle of the only element that matches this selector.
    pub(crate) async fn click(&mut self, selector: &str) {
        let place = format!(
            "(() => {{ const all = document.querySelectorAll({selector:?}); if (all.length !== 1) return null; \
             all[0].scrollIntoView({{block: 'center'}}); const box = all[0].getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let place = self.eval(&place).await;
        assert!(place.is_array(), "not one element: {selector}");
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Types text where the focus is, and presses the enter key.
    pub(crate) async fn type_line(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Returns a picture of the page as PNG.
    pub(crate) async fn screenshot(&mut self) -> Vec<u8> {
        use base64::Engine as _;
        let taken = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()
    }

    /// Sends a command to the page, or to the browser if there is no page yet, and returns the
    /// result.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({"id": id, "method": method, "params": params});
        if self.session.is_string() {
            command["sessionId"] = self.session.clone();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).await.unwrap();
        let reply = tokio::time::timeout(TIMEOUT, async {
            loop {
                let mut message = Vec::new();
                self.replies.read_until(0, &mut message).await.unwrap();
                message.pop();
                let Ok(mut message) = serde_json::from_slice::<Value>(&message) else {
                    panic!("Chromium ended: {:?}", self.child.try_wait());
                };
                if message["id"] == id {
                    assert!(message["error"].is_null(), "{method}: {message}");
                    return message["result"].take();
                }
                self.note(&message);
            }
        });
        reply.await.unwrap_or_else(|_| panic!("no reply to {method}"))
    }

    fn note(&mut self, event: &Value) {
        let (params, level) = (&event["params"], &event["params"]["entry"]["level"]);
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.errors.push(params["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if level == "error" => self.errors.push(params["entry"]["text"].to_string()),
            _ => {}
        }
    }
}
