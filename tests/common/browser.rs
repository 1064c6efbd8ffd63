//! A real browser without a window, driven by the protocol of its developer tools over a pair of pipes.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long any answer may take: a browser begins slowly on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running browser with one page; killed on drop.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Option<String>,
    last_id: u64,
    /// What the page did meanwhile: requests, errors, lines in the console.
    events: Vec<Value>,
    _home: TempDir,
}

/// Which light the page is looked at in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    Light,
    Dark,
}

/// Starts a browser; says that the test `test` is skipped, and returns nothing, where there is none.
pub fn start(test: &str) -> Option<Browser> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|dir| dir.join(name).is_file())
    };
    let Some(program) = names.into_iter().find(is_there) else {
        // Past the harness's capture, so that it is seen.
        let _ = writeln!(std::io::stderr(), "{test} skipped: there is no chromium");
        return None;
    };
    Some(Browser::run(program))
}

impl Browser {
    fn run(program: &str) -> Browser {
        let home = tempfile::tempdir().expect("directory");
        let [input, output] = ["in", "out"].map(|name| home.path().join(name));
        for pipe in [&input, &output] {
            nix::unistd::mkfifo(pipe, Mode::S_IRWXU).expect("pipe");
        }
        let child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<\"$HOME/in\" 4>\"$HOME/out\"", "sh", program])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("browser");
        let to = OpenOptions::new().write(true).open(&input).expect("pipe");
        let pipe = BufReader::new(File::open(&output).expect("pipe"));
        let (send, from) = channel();
        thread::spawn(move || {
            for message in pipe.split(0) {
                let Ok(message) = message else { break };
                if send.send(serde_json::from_slice(&message).expect("JSON")).is_err() {
                    break;
                }
            }
        });
        let mut browser =
            Browser { child, to, from, session: None, last_id: 0, events: Vec::new(), _home: home };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session =
            browser.call("Target.attachToTarget", &attach)["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Opens a file as it looks on a screen so many pixels wide; what an earlier page did is forgotten.
    pub fn open(&mut self, file: &Path, width: u32, light: Light) {
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &screen);
        let value = format!("{light:?}").to_lowercase();
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", &media);
        self.events.clear();
        self.call("Page.navigate", &json!({"url": format!("file://{}", file.display())}));
        self.wait_for("Page.loadEventFired");
    }

    /// The value of an expression.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", &params);
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].clone()
    }

    /// Moves the mouse to the middle of the first element that the selector finds.
    #[track_caller]
    pub fn hover(&mut self, selector: &str) {
        let place = self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             return new Promise(done => setTimeout(() => {{ const b = e.getBoundingClientRect(); \
             done([b.x + b.width / 2, b.y + b.height / 2]); }}, 100)); }})()",
            json!(selector)
        ));
        let event = json!({"type": "mouseMoved", "x": place[0], "y": place[1]});
        self.call("Input.dispatchMouseEvent", &event);
    }

    /// Presses and releases a key, by its name in the DOM.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", &json!({"type": kind, "key": key, "code": key}));
        }
    }

    /// What went wrong on the page: exceptions, and everything in the console above chatter.
    pub fn complaints(&mut self) -> Vec<String> {
        // What was reported before this answer has arrived.
        self.eval("0");
        let is_complaint = |event: &&Value| {
            let level = match event["method"].as_str() {
                Some("Runtime.exceptionThrown") => "error",
                Some("Runtime.consoleAPICalled") => event["params"]["type"].as_str().unwrap_or_default(),
                Some("Log.entryAdded") => event["params"]["entry"]["level"].as_str().unwrap_or_default(),
                _ => "",
            };
            ["error", "warning", "assert"].contains(&level)
        };
        self.events.iter().filter(is_complaint).map(ToString::to_string).collect()
    }

    /// Everything the page asked for, itself left out.
    pub fn requests(&mut self) -> Vec<String> {
        self.eval("0");
        let asked = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        let urls = asked.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned));
        urls.skip(1).collect()
    }

    /// Keeps what is on the whole page as a picture, in the directory that `SCREENSHOTS` names, for people to look at.
    pub fn picture(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("SCREENSHOTS") else { return };
        let params = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", &params);
        let base64 = picture["data"].as_str().expect("a picture");
        let file = File::create(Path::new(&dir).join(format!("{name}.png"))).expect("picture");
        let mut decoder =
            Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(file).spawn().expect("base64");
        decoder.stdin.take().expect("pipe").write_all(base64.as_bytes()).expect("write");
        assert!(decoder.wait().expect("base64").success());
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.from.recv_timeout(DEADLINE).unwrap_or_else(|e| panic!("{method}: {e}"));
            if answer["id"] == self.last_id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    fn wait_for(&mut self, event: &str) {
        while !self.events.iter().any(|seen| seen["method"] == event) {
            self.events.push(self.from.recv_timeout(DEADLINE).expect("the page loads"));
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its helpers end with it, and may still be writing to the profile.
        let _ = fs::remove_dir_all(self._home.path());
    }
}
