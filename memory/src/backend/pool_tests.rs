use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// Real sockets to a server that answers every byte with itself.
struct Echo {
    address: SocketAddr,
    made: AtomicU32,
}

impl Connect for Echo {
    type Connection = TcpStream;

    fn connect(&self) -> Result<TcpStream> {
        self.made.fetch_add(1, Ordering::SeqCst);
        TcpStream::connect(self.address).map_err(|error| MemoryError::Backend {
            backend: "echo",
            message: error.to_string(),
            retryable: true,
        })
    }

    fn broken(&self, connection: &TcpStream) -> bool {
        connection.take_error().map_or(true, |error| error.is_some())
    }

    fn answers(&self, connection: &mut TcpStream) -> bool {
        let mut answer = [0];
        connection.write_all(b"x").and_then(|()| connection.read_exact(&mut answer)).is_ok()
    }
}

fn echo(address: SocketAddr) -> Echo {
    Echo { address, made: AtomicU32::new(0) }
}

fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    address
}

#[test]
fn lends_at_most_its_size_and_uses_again() {
    let pool = Pool::new(("echo", "echo.pool"), PoolConfig { size: 2, wait: Duration::from_millis(5) }, echo(serve()));
    let (first, second) = (pool.get().unwrap(), pool.get().unwrap());
    assert_eq!(pool.usage(), (2, 2));
    let refused = pool.get().err().unwrap().to_string();
    assert_eq!(refused, "echo: all 2 connections were in use for 5 ms: raise `echo.pool`");
    drop((first, second));
    assert_eq!(pool.usage(), (0, 2));
    drop(pool.get().unwrap());
    assert_eq!(pool.maker.made.load(Ordering::SeqCst), 2);
}

#[test]
fn a_waiting_thread_gets_what_comes_back() {
    let config = PoolConfig { size: 3, wait: Duration::from_secs(60) };
    let pool = Arc::new(Pool::new(("echo", "echo.pool"), config, echo(serve())));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let pool = Arc::clone(&pool);
            std::thread::spawn(move || {
                for _ in 0..50 {
                    assert!(Echo::answers(&pool.maker, &mut pool.get().unwrap()));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(pool.usage(), (0, 3));
    assert!(pool.maker.made.load(Ordering::SeqCst) <= 3);
}

#[test]
fn a_refused_connection_gives_its_place_back() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pool = Pool::new(("echo", "echo.pool"), PoolConfig { size: 1, wait: Duration::ZERO }, echo(nobody));
    for _ in 0..3 {
        let error = pool.get().err().unwrap().to_string();
        assert!(error.contains("refused"), "{error}");
    }
    assert_eq!(pool.usage(), (0, 1));
}

#[test]
fn a_connection_that_died_while_idle_is_replaced() {
    let pool = Pool::new(("echo", "echo.pool"), PoolConfig { size: 1, wait: Duration::ZERO }, echo(serve()));
    let lent = pool.get().unwrap();
    lent.shutdown(std::net::Shutdown::Both).unwrap();
    drop(lent);
    pool.lock().idle.iter_mut().for_each(|(_, since)| *since -= TRUSTED_IDLE);
    assert!(Echo::answers(&pool.maker, &mut pool.get().unwrap()));
    assert_eq!((pool.usage(), pool.maker.made.load(Ordering::SeqCst)), ((0, 1), 2));
}

#[test]
fn a_borrower_that_panics_breaks_it() {
    let pool = Arc::new(Pool::new(("echo", "echo.pool"), PoolConfig { size: 1, wait: Duration::ZERO }, echo(serve())));
    let borrower = Arc::clone(&pool);
    std::thread::spawn(move || {
        let _lent = borrower.get().unwrap();
        panic!("half a conversation");
    })
    .join()
    .unwrap_err();
    drop(pool.get().unwrap());
    assert_eq!(pool.maker.made.load(Ordering::SeqCst), 2);
}
