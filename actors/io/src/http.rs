//! A page over HTTP: what a scraper of metrics asks for, and no more.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The most that a request's head may take, and how long it may take to come.
const HEAD: u64 = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves a page until it is dropped.
pub struct MetricsPage {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Answers `GET /metrics` with what the closure writes, in Prometheus' text format. One thread, one request at a time;
/// it sleeps while nobody asks.
///
/// # Errors
/// If the address cannot be listened on.
pub fn serve_metrics(address: impl ToSocketAddrs, page: impl Fn() -> String + Send + 'static) -> io::Result<MetricsPage> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::Builder::new().name("millstream-metrics".into()).spawn(move || {
        for stream in listener.incoming() {
            if stopped.load(Ordering::Acquire) {
                return;
            }
            // Who hangs up half-way misses the page.
            if let Err(error) = stream.and_then(|stream| answer(stream, &page)) {
                tracing::debug!(%error, "a request for metrics failed");
            }
        }
    })?;
    Ok(MetricsPage { address, stop, thread: Some(thread) })
}

impl MetricsPage {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsPage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread from its wait for a connection.
        let woken = TcpStream::connect_timeout(&reachable(self.address), PATIENCE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A page that panicked has ended it already.
            let _ = thread.join();
        }
    }
}

/// An address that stands for all of them can be listened on, not connected to.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    address
}

fn answer(stream: TcpStream, page: &impl Fn() -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new((&stream).take(HEAD));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, path.split('?').next().unwrap_or_default()) {
        ("GET", "/metrics") => ("200 OK", page()),
        ("GET", _) => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    (&stream).write_all(head.as_bytes())?;
    (&stream).write_all(body.as_bytes())
}
