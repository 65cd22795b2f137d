//! A collector: an HTTP server that keeps what it is sent, and answers as a test wants it to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::KeyValue,
    trace::v1::Span,
};
use prost::Message;

/// What to answer.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Ok,
    /// All but so many spans are taken.
    Rejects(i64),
    /// 503, and to come again at once.
    Busy,
    /// 400.
    Refuses,
}

/// A request that came.
#[derive(Clone)]
pub(crate) struct Request {
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn message(&self) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(&*self.body).expect("OTLP")
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let scopes = self.message().resource_spans.into_iter().flat_map(|of_resource| of_resource.scope_spans);
        scopes.inspect(|scope| assert_eq!(scope.scope.as_ref().expect("a scope").name, "millstream")).flat_map(|scope| scope.spans).collect()
    }

    pub(crate) fn resource(&self) -> Vec<KeyValue> {
        self.message().resource_spans.remove(0).resource.expect("a resource").attributes
    }
}

pub(crate) struct Collector {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Answers the request of that number, from 0.
    pub(crate) fn start(answer: impl Fn(usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (requests, ended) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (address, kept, end) = (listener.local_addr().expect("an address"), requests.clone(), ended.clone());
        let serve = move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                // A connection that ends before its request does leaves nothing to keep.
                let _kept = stream.ok().and_then(|stream| take(stream, &answer, &kept));
            }
        };
        Collector { address, requests, ended, thread: Some(thread::spawn(serve)) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.requests().iter().flat_map(Request::spans).collect()
    }
}

/// One request a connection.
fn take(stream: TcpStream, answer: &impl Fn(usize) -> Answer, kept: &Mutex<Vec<Request>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
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
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(Request { path, headers, body });
        kept.len() - 1
    };
    let (status, body) = match answer(number) {
        Answer::Ok => ("200 OK", Vec::new()),
        Answer::Rejects(rejected_spans) => {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: "too many".to_owned() };
            ("200 OK", ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec())
        }
        Answer::Busy => ("503 Service Unavailable\r\nRetry-After: 0", Vec::new()),
        Answer::Refuses => ("400 Bad Request", Vec::new()),
    };
    let stream = reader.get_mut();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()).ok()?;
    stream.write_all(&body).ok()
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
