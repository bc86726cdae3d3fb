//! The HTTP server that the script is tested against, and the files that it serves.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const MODEL: &str = "model.safetensors";
pub const MODEL_LEN: usize = 200_098;
/// SHA-256 of [`model_bytes`].
pub const MODEL_SHA: &str = "e9960857bfaeb9ce9f2d5cf95bee2be1b768a7d2c36b0c60f1e9403e2cb6d876";
pub const CUT: usize = 90_000;
pub const CONFIG: &str = r#"{"n_layer": 1, "n_head": 2, "n_embd": 4, "vocab_size": 9}"#;
pub const TOKENIZER: &str = r#"{"model": {"vocab": {"a": 0, "\"": 1}, "merges": []}}"#;

/// A whole safetensors file with one tensor of 50 000 floats.
pub fn model_bytes() -> Vec<u8> {
    let header = r#"{"w":{"dtype":"F32","shape":[50000],"data_offsets":[0,200000]}}"#;
    let mut file = 90u64.to_le_bytes().to_vec();
    file.extend(format!("{header:90}").bytes());
    file.extend((0..200_000u32).map(|i| (i * 31 % 251) as u8));
    file
}

/// What the server does with the model file.
#[derive(Clone, Copy, PartialEq)]
pub enum Quirk {
    Cut,                    // the first answer breaks off after CUT bytes
    NoRange,                // a Range request is answered with 200 and the whole file
    Busy,                   // the first request is answered with 503
    Redirect,               // a redirect leads to the file, as on the hub
    Version(&'static str),  // the value of the ETag header
    Modified(&'static str), // the value of the Last-Modified header
    NoIfRange,              // a Range is answered though If-Range names another version
    Endless,                // config.json does not end
    Stall,                  // the first request is not answered
}

/// A request, the status of its answer, and the bytes of the body sent.
#[derive(Clone, Debug)]
pub struct Answer {
    pub path: String,
    pub start: Option<usize>,
    pub if_range: Option<String>,
    pub status: u16,
    pub sent: usize,
}

/// What is served; an empty model is answered with 404.
pub struct Files {
    pub config: Vec<u8>,
    pub tokenizer: Vec<u8>,
    pub model: Vec<u8>,
}

impl Files {
    pub fn good() -> Files {
        Files {
            config: CONFIG.into(),
            tokenizer: TOKENIZER.into(),
            model: model_bytes(),
        }
    }
}

pub struct Server {
    pub url: String,
    files: Files,
    quirks: &'static [Quirk],
    answers: Mutex<Vec<Answer>>,
}

impl Server {
    /// The thread ends with the test program.
    pub fn start(quirks: &'static [Quirk], files: Files) -> Arc<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Arc::new(Server {
            url: format!("http://{}", listener.local_addr().unwrap()),
            files,
            quirks,
            answers: Mutex::default(),
        });
        let there = Arc::clone(&server);
        thread::spawn(move || listener.incoming().for_each(|s| there.serve(s.unwrap())));
        server
    }

    pub fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap().clone()
    }

    /// The answers that carried the model, or a part of it.
    pub fn model_answers(&self) -> Vec<(Option<usize>, u16, usize)> {
        let all = self.answers().into_iter();
        let model = all.filter(|a| a.path.ends_with(MODEL) && a.status / 100 == 2);
        model.map(|a| (a.start, a.status, a.sent)).collect()
    }

    fn serve(&self, mut stream: TcpStream) {
        let limit = Duration::from_secs(10);
        stream.set_read_timeout(Some(limit)).unwrap();
        let Some(mut answer) = read_request(&mut stream) else {
            return;
        };
        if self.quirks.contains(&Quirk::Endless) && answer.path.ends_with("config.json") {
            return self.send_without_end(&mut stream, answer);
        }
        if self.quirks.contains(&Quirk::Stall) && self.answers().is_empty() {
            self.answers.lock().unwrap().push(answer);
            stream.set_read_timeout(None).unwrap();
            let _ = stream.read(&mut [0]); // until the client is gone
            return;
        }
        let is_first = |a: &Answer| !a.path.ends_with(MODEL) || a.status == 302;
        let first = self.answers().iter().all(is_first);
        let (status, extra, body) = self.choose(&answer, first);
        let length = body.len();
        let cuts = self.quirks.contains(&Quirk::Cut) && answer.path.ends_with(MODEL);
        answer.status = status;
        answer.sent = if cuts && first && status == 200 {
            CUT
        } else {
            length
        };
        let sent = answer.sent;
        let common = format!("Content-Length: {length}\r\nConnection: close");
        let head = format!("HTTP/1.1 {status} x\r\n{common}\r\n{extra}\r\n");
        // Noted before it is sent: the script may end right after the last byte.
        self.answers.lock().unwrap().push(answer);
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&body[..sent]);
    }

    /// Send until the client is gone, or 1 GiB; what is sent is noted as it goes.
    fn send_without_end(&self, stream: &mut TcpStream, answer: Answer) {
        let head = match answer.start {
            None => "HTTP/1.1 200 x\r\n\r\n".to_string(),
            Some(start) => {
                format!(
                    "HTTP/1.1 206 x\r\nContent-Range: bytes {start}-9999999999/10000000000\r\n\r\n"
                )
            }
        };
        self.answers.lock().unwrap().push(answer);
        let _ = stream.write_all(head.as_bytes());
        for _ in 0..1 << 14 {
            if stream.write_all(&[b' '; 1 << 16]).is_err() {
                return;
            }
            self.answers.lock().unwrap().last_mut().unwrap().sent += 1 << 16;
        }
    }

    /// Status, further header lines and body.
    fn choose(&self, request: &Answer, first: bool) -> (u16, String, &[u8]) {
        let has = |quirk| self.quirks.contains(&quirk);
        let model = &self.files.model;
        let (version, lines) = self.version();
        let start = request.start.filter(|_| !has(Quirk::NoRange));
        let same = request.if_range.as_deref().is_none_or(|v| v == version);
        match request.path.rsplit('/').next().unwrap() {
            "config.json" => (200, String::new(), &self.files.config),
            "tokenizer.json" => (200, String::new(), &self.files.tokenizer),
            _ if model.is_empty() => (404, String::new(), b"<html>no</html>"),
            _ if first && has(Quirk::Busy) => (503, String::new(), b"busy"),
            _ if has(Quirk::Redirect) && !request.path.starts_with("/cdn/") => {
                (302, format!("Location: /cdn/{MODEL}\r\n"), b"")
            }
            _ => match start.filter(|_| same || has(Quirk::NoIfRange)) {
                None => (200, lines, model),
                Some(start) => {
                    let (last, total) = (model.len() - 1, model.len());
                    let range = format!("Content-Range: bytes {start}-{last}/{total}\r\n");
                    (206, range + &lines, &model[start..])
                }
            },
        }
    }

    /// What If-Range must be for a part of the model to be sent, and the header lines that say so.
    fn version(&self) -> (&'static str, String) {
        let mut version = "";
        let mut lines = String::new();
        for quirk in self.quirks {
            let (name, value) = match quirk {
                Quirk::Version(value) => ("ETag", value),
                Quirk::Modified(value) => ("Last-Modified", value),
                _ => continue,
            };
            lines += &format!("{name}: {value}\r\n");
            version = value;
        }
        (version, lines)
    }
}

/// The request, as an answer without status. A value of If-Range keeps its case.
fn read_request(stream: &mut TcpStream) -> Option<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let header = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        let found = fields
            .into_iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_string())
    };
    let range = header("range");
    let start = range.and_then(|r| r.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    Some(Answer {
        path: head.split(' ').nth(1)?.to_string(),
        start,
        if_range: header("if-range"),
        status: 0,
        sent: 0,
    })
}
