//! The page of metrics, as a scraper gets it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use millstream_io::serve_metrics;
use millstream_runtime::{Pipeline, Record, channel, for_each};

fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_scraper_sees_a_running_pipeline() {
    let (push, source) = channel(8);
    let handle = Pipeline::from(source).map("twice", |x: u64| x * 2).sink(for_each(|_| {})).spawn().unwrap();
    let monitor = handle.monitor();
    let page = serve_metrics("127.0.0.1:0", move || monitor.snapshot().prometheus("test")).unwrap();
    (0..5).for_each(|x| push.send(Record::new(x)).unwrap());
    let get = || ask(page.address(), "GET /metrics?x=1 HTTP/1.1\r\nHost: here\r\n\r\n");
    let mut answer = get();
    for _ in 0..200 {
        if answer.contains("outcome=\"ok\"} 5\n") {
            break;
        }
        thread::sleep(Duration::from_millis(10));
        answer = get();
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("millstream_outcomes_total{pipeline=\"test\",outcome=\"ok\"} 5\n"), "{body}");
    assert!(body.contains("millstream_stage_state{pipeline=\"test\",stage=\"twice\",state=\"running\"} 1\n"), "{body}");
    drop(push);
    handle.join().unwrap();
    // After the pipeline's end, the page still stands.
    assert!(get().contains("state=\"stopped\"} 1\n"));
    assert!(ask(page.address(), "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(page.address(), "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    // Who hangs up at once, and who says too much, disturbs nobody.
    drop(TcpStream::connect(page.address()).unwrap());
    let mut chatty = TcpStream::connect(page.address()).unwrap();
    let _ = chatty.write_all(&[b'x'; 20_000]);
    drop(chatty);
    assert!(get().starts_with("HTTP/1.1 200 OK"));
    let address = page.address();
    drop(page);
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}
