//! Racing connection attempts to the addresses of one host (RFC 8305, "happy eyeballs").

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// How long an attempt is given before the next one begins beside it ("Connection Attempt Delay").
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The order of attempts: the families take turns, beginning with that of the first address.
pub fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut first = VecDeque::new();
    let mut second = VecDeque::new();
    for address in addresses {
        let with_first =
            first.front().is_none_or(|one: &SocketAddr| one.is_ipv4() == address.is_ipv4());
        let queue = if with_first { &mut first } else { &mut second };
        if !queue.contains(&address) {
            queue.push_back(address);
        }
    }
    let mut order = VecDeque::new();
    while let Some(address) = first.pop_front() {
        order.push_back(address);
        order.extend(second.pop_front());
    }
    order.extend(second);
    order
}

/// The first connection that is made. An attempt that fails is followed by the next at once; one that
/// takes longer than [`ATTEMPT_DELAY`] gets company. `delay` makes a future that ends after it.
///
/// # Errors
/// That of the last attempt that failed, once all have; `NotFound` without addresses.
pub async fn first_to_connect<S, C, D>(
    mut addresses: VecDeque<SocketAddr>,
    mut connect: impl FnMut(SocketAddr) -> C,
    mut delay: impl FnMut() -> D,
) -> io::Result<S>
where
    C: Future<Output = io::Result<S>>,
    D: Future<Output = ()>,
{
    let mut running: Vec<Pin<Box<C>>> = Vec::new();
    let mut until_next: Option<Pin<Box<D>>> = None;
    let mut last_error = None;
    poll_fn(move |cx| {
        loop {
            let due = match &mut until_next {
                Some(delay) => delay.as_mut().poll(cx).is_ready(),
                None => true,
            };
            if due {
                until_next = None;
                if let Some(address) = addresses.pop_front() {
                    running.push(Box::pin(connect(address)));
                    if !addresses.is_empty() {
                        until_next = Some(Box::pin(delay()));
                    }
                }
            }
            let mut failed = false;
            let mut at = 0;
            while at < running.len() {
                match running[at].as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Ok(stream)),
                    Poll::Ready(Err(error)) => {
                        last_error = Some(error);
                        failed = true;
                        drop(running.remove(at));
                    }
                    Poll::Pending => at += 1,
                }
            }
            if failed && !addresses.is_empty() {
                // The next one need not wait.
                until_next = None;
                continue;
            }
            if running.is_empty() && addresses.is_empty() {
                let nowhere =
                    || io::Error::new(io::ErrorKind::NotFound, "no address to connect to");
                return Poll::Ready(Err(last_error.take().unwrap_or_else(nowhere)));
            }
            if !due || until_next.is_none() {
                return Poll::Pending;
            }
            // A new delay has to be polled once.
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Answer, Scripted};
    use crate::transport::Transport;
    use std::sync::{Arc, Mutex};

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Connects to what answers after `after` milliseconds with `ok`; returns who won and who was tried
    /// when.
    fn race(plan: &[(&str, u64, bool)]) -> (io::Result<SocketAddr>, Vec<(u64, SocketAddr)>) {
        let transport = Scripted::new(|_| Answer::Silence);
        let tried = Arc::new(Mutex::new(Vec::new()));
        let outside: &dyn Transport = &*transport;
        let connect = |to: SocketAddr| {
            let (_, after, ok) = *plan.iter().find(|(text, ..)| address(text) == to).unwrap();
            let began = outside.now();
            tried.lock().unwrap().push((began.as_millis(), to));
            let done = outside.sleep_until(began + Duration::from_millis(after));
            async move {
                done.await;
                if ok { Ok(to) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
            }
        };
        let delay = || outside.sleep_until(outside.now() + ATTEMPT_DELAY);
        let order = interleaved(plan.iter().map(|(text, ..)| address(text)));
        let won = transport.block_on(first_to_connect(order, connect, delay));
        let tried = tried.lock().unwrap().clone();
        (won, tried)
    }

    #[test]
    fn families_take_turns() {
        let all = ["[::1]:1", "[::2]:1", "1.0.0.1:1", "1.0.0.2:1", "1.0.0.1:1"].map(address);
        let order = ["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1"].map(address);
        assert_eq!(interleaved(all), order);
    }

    #[test]
    fn an_address_that_is_silent_gets_company_after_a_quarter_of_a_second() {
        let (won, tried) = race(&[("[::1]:1", 60_000, true), ("1.0.0.1:1", 5, true)]);
        assert_eq!(won.unwrap(), address("1.0.0.1:1"));
        assert_eq!(tried, [(0, address("[::1]:1")), (250, address("1.0.0.1:1"))]);
    }

    #[test]
    fn an_address_that_refuses_is_followed_at_once() {
        let (won, tried) = race(&[("[::1]:1", 3, false), ("1.0.0.1:1", 5, true)]);
        assert_eq!(won.unwrap(), address("1.0.0.1:1"));
        assert_eq!(tried, [(0, address("[::1]:1")), (3, address("1.0.0.1:1"))]);
    }

    #[test]
    fn a_slow_first_address_may_still_win() {
        let (won, tried) = race(&[("[::1]:1", 300, true), ("1.0.0.1:1", 100, true)]);
        assert_eq!(won.unwrap(), address("[::1]:1"));
        assert_eq!(tried.len(), 2);
    }

    #[test]
    fn where_all_refuse_the_last_refusal_is_told() {
        let (won, tried) = race(&[("[::1]:1", 3, false), ("1.0.0.1:1", 5, false)]);
        assert_eq!(won.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(tried.len(), 2);
    }
}
