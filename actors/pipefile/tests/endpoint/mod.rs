//! A model behind HTTP in the test's own process: a server that keeps what it is sent, and answers as a test wants it to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde_json::Value as Json;

/// A request that came.
#[derive(Clone)]
pub(crate) struct Request {
    /// Its number, from 0.
    pub number: usize,
    headers: Vec<(String, String)>,
    pub body: Json,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A status, more headers, and the body.
pub(crate) type Answer = (u16, &'static str, Json);

pub(crate) struct Endpoint {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (requests, ended) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (address, kept, end) = (listener.local_addr().expect("an address"), requests.clone(), ended.clone());
        let serve = move || {
            thread::scope(|connections| {
                for stream in listener.incoming() {
                    if end.load(Ordering::SeqCst) {
                        break;
                    }
                    // A connection that ends before its request does leaves nothing to keep.
                    let one = || stream.ok().and_then(|stream| take(stream, &answer, &kept));
                    let _ = connections.spawn(one);
                }
            });
        };
        Endpoint { address, requests, ended, thread: Some(thread::spawn(serve)) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/model", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// One request a connection.
fn take(stream: TcpStream, answer: &impl Fn(&Request) -> Answer, kept: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    assert_eq!(line, "POST /model HTTP/1.1\r\n");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((key, value)) = line.trim_end().split_once(':') else { break };
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(key, _)| key == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let request = {
        let mut kept = kept.lock().unwrap();
        let request = Request { number: kept.len(), headers, body: serde_json::from_slice(&body).expect("JSON") };
        kept.push(request.clone());
        request
    };
    let (status, more, body) = answer(&request);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let stream = reader.get_mut();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n{body}", body.len()).ok()
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
