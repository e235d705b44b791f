//! Worlds as their users see them.

use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use stepdown_driver::Instant;
use stepdown_driver::transport::{Stream, Transport};
use stepdown_driver::uri::ServerAddress;

use super::connection::DownSegment;
use super::{FaultError, Sim};
use crate::mongod::ConnectionId;

mod set;

const SECOND: Duration = Duration::from_secs(1);

fn world(seed: u64) -> Sim {
    Sim::builder().seed(seed).members(3).build()
}

fn address(host: &str) -> ServerAddress {
    ServerAddress::new(host, 27017)
}

async fn connect(
    transport: &Arc<dyn Transport>,
    host: &str,
    within: Duration,
) -> io::Result<Box<dyn Stream>> {
    transport.connect(&address(host), transport.now() + within).await
}

async fn read(stream: &mut Box<dyn Stream>, into: &mut [u8]) -> io::Result<usize> {
    std::future::poll_fn(|cx| stream.poll_read(cx, into)).await
}

async fn write(stream: &mut Box<dyn Stream>, bytes: &[u8]) -> io::Result<usize> {
    std::future::poll_fn(|cx| stream.poll_write(cx, bytes)).await
}

/// What a connection attempt ends in, and after how many virtual milliseconds.
fn attempt(sim: &Sim, host: &str, within: Duration) -> (Result<(), io::ErrorKind>, u64) {
    let transport = sim.transport("client");
    let before = sim.now();
    let outcome = sim.block_on(connect(&transport, host, within));
    (outcome.map(|_| ()).map_err(|error| error.kind()), (sim.now() - before).as_millis() as u64)
}

// ---- time and tasks

#[test]
fn a_sleeper_wakes_at_its_moment_and_no_real_time_passes() {
    let year = Duration::from_secs(365 * 86_400);
    let sim = Sim::builder().time_limit(year * 2).build();
    sim.block_on(sim.sleep(year));
    assert_eq!(sim.now(), Instant::ZERO + year);
}

#[test]
fn advance_lets_spawned_tasks_go_on() {
    let sim = Sim::builder().build();
    let inside = sim.clone();
    let ticks = sim.spawn("ticker", async move {
        for _ in 0..3 {
            inside.sleep(SECOND).await;
        }
        inside.now()
    });
    sim.advance(SECOND * 2);
    assert!(!ticks.is_finished());
    sim.advance(SECOND);
    assert!(ticks.is_finished());
    assert_eq!(sim.block_on(ticks), Instant::ZERO + SECOND * 3);
}

#[test]
fn run_until_stops_at_the_event_that_made_it_true() {
    let sim = Sim::builder().build();
    let inside = sim.clone();
    sim.spawn("ticker", async move {
        loop {
            inside.sleep(SECOND).await;
        }
    });
    let at = sim.run_until(SECOND * 60, |sim| sim.now() >= Instant::from_millis(4_500));
    assert_eq!(at, Ok(Instant::from_millis(5_000)));
    let never = sim.run_until(SECOND, |_| false);
    assert_eq!(never.unwrap_err().to_string(), "not by 6.000000 s of virtual time");
}

#[test]
fn a_future_may_move_time_by_itself() {
    let sim = Sim::builder().build();
    let inside = sim.clone();
    let other = sim.clone();
    sim.spawn("ticker", async move {
        loop {
            other.sleep(SECOND).await;
        }
    });
    let at = sim.block_on(async move {
        inside.advance(SECOND * 5);
        inside.block_on(inside.sleep(SECOND));
        inside.now()
    });
    assert_eq!(at, Instant::ZERO + SECOND * 6);
}

#[test]
fn tasks_run_in_wake_order_unless_a_seed_permutes_them() {
    let order_of = |permute, seed| {
        let sim = Sim::builder().permute_tasks(permute).seed(seed).build();
        let order = Arc::new(Mutex::new(Vec::new()));
        for number in 0..6 {
            let order = order.clone();
            sim.spawn(format!("task {number}"), async move { order.lock().unwrap().push(number) });
        }
        sim.advance(SECOND);
        order.lock().unwrap().clone()
    };
    assert_eq!(order_of(false, 1), [0, 1, 2, 3, 4, 5]);
    assert_ne!(order_of(true, 1), [0, 1, 2, 3, 4, 5]);
    assert_eq!(order_of(true, 1), order_of(true, 1));
    assert_ne!(order_of(true, 1), order_of(true, 2));
}

#[test]
#[should_panic(expected = "deadlock: nothing will ever happen again, and tasks wait
  seed 1, virtual time 0.000000 s
  waiting:
    a task of the test
    block_on
  last events:")]
fn a_deadlock_is_reported_with_all_who_wait() {
    let sim = Sim::builder().build();
    sim.spawn("a task of the test", std::future::pending::<()>());
    sim.block_on(std::future::pending::<()>());
}

#[test]
#[should_panic(expected = "time limit: block_on has waited for 60 s of virtual time
  seed 7, virtual time 60.000000 s
  waiting:
    block_on: sleeps until 3600.000000 s
  last events:
        0.000000  world  -- before the wait
")]
fn a_wait_beyond_the_time_limit_is_reported_with_what_is_waited_for() {
    let sim = Sim::builder().seed(7).time_limit(SECOND * 60).build();
    sim.note("before the wait");
    sim.block_on(sim.sleep(SECOND * 3_600));
}

#[test]
fn a_dropped_world_drops_its_tasks_although_they_hold_it() {
    let held = Arc::new(());
    let sim = world(1);
    let (inside, also_held) = (sim.clone(), held.clone());
    sim.spawn("holder", async move {
        inside.sleep(SECOND * 1_000_000).await;
        drop(also_held);
    });
    sim.advance(SECOND);
    assert_eq!(Arc::strong_count(&held), 2);
    drop(sim);
    assert_eq!(Arc::strong_count(&held), 1);
}

// ---- connections

#[test]
fn a_living_host_is_reached_after_one_round_trip() {
    let (outcome, _) = attempt(&world(1), "a", SECOND);
    assert_eq!(outcome, Ok(()));
}

#[test]
fn a_dead_host_refuses_at_once() {
    let sim = world(1);
    sim.kill("a").unwrap();
    let (outcome, millis) = attempt(&sim, "a", SECOND);
    assert_eq!(outcome, Err(io::ErrorKind::ConnectionRefused));
    assert!(millis <= 1, "one round trip, not {millis} ms");
}

#[test]
fn an_isolated_host_lets_the_attempt_time_out() {
    let sim = world(1);
    sim.isolate("a").unwrap();
    let outcome = attempt(&sim, "a", SECOND * 10);
    assert_eq!(outcome, (Err(io::ErrorKind::TimedOut), 10_000));
}

#[test]
fn a_paused_host_accepts_and_never_answers() {
    let sim = world(1);
    sim.pause("a").unwrap();
    let transport = sim.transport("client");
    let outcome = sim.block_on(async {
        let mut stream = connect(&transport, "a", SECOND).await.unwrap();
        stream.set_deadline(Some(transport.now() + SECOND * 5));
        assert_eq!(write(&mut stream, b"hello?").await.unwrap(), 6);
        read(&mut stream, &mut [0; 8]).await.map_err(|error| error.kind())
    });
    assert_eq!(outcome, Err(io::ErrorKind::TimedOut));
}

#[test]
fn an_unknown_host_is_an_error() {
    let (outcome, _) = attempt(&world(1), "nowhere", SECOND);
    assert_eq!(outcome, Err(io::ErrorKind::NotFound));
}

#[test]
fn a_refused_link_refuses_only_its_own_direction_and_client() {
    let sim = world(1);
    sim.transport("client");
    sim.refuse("client", "b").unwrap();
    assert_eq!(attempt(&sim, "b", SECOND).0, Err(io::ErrorKind::ConnectionRefused));
    assert_eq!(attempt(&sim, "a", SECOND).0, Ok(()));
    sim.heal();
    assert_eq!(attempt(&sim, "b", SECOND).0, Ok(()));
}

#[test]
fn kill_resets_the_streams_of_the_clients() {
    let sim = world(1);
    let transport = sim.transport("client");
    let outcome = sim.block_on(async {
        let mut stream = connect(&transport, "a", SECOND).await.unwrap();
        sim.kill("a").unwrap();
        read(&mut stream, &mut [0; 8]).await.map_err(|error| error.kind())
    });
    assert_eq!(outcome, Err(io::ErrorKind::ConnectionReset));
}

#[test]
fn bytes_arrive_in_the_order_they_were_sent_although_latencies_differ() {
    let sim = Sim::builder().members(1).latency(Duration::ZERO, SECOND).build();
    let transport = sim.transport("client");
    let seen = sim.block_on(async {
        let mut stream = connect(&transport, "a", SECOND * 10).await.unwrap();
        for byte in 0..50_u8 {
            let mut world = sim.world();
            world.server_sends(0, ConnectionId(1), DownSegment::Bytes(vec![byte]));
        }
        let mut seen = Vec::new();
        while seen.len() < 50 {
            let mut buffer = [0; 7];
            let count = read(&mut stream, &mut buffer).await.unwrap();
            seen.extend_from_slice(&buffer[..count]);
        }
        assert!(!stream.is_dirty());
        seen
    });
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
}

#[test]
fn what_was_sent_into_a_cut_is_retransmitted_after_the_heal() {
    let sim = world(1);
    let transport = sim.transport("client");
    let arrived = sim.block_on(async {
        let mut stream = connect(&transport, "a", SECOND).await.unwrap();
        sim.partition(&["client"], &["a"]).unwrap();
        sim.world().server_sends(0, ConnectionId(1), DownSegment::Bytes(vec![1, 2]));
        stream.set_deadline(Some(transport.now() + SECOND));
        let silence = read(&mut stream, &mut [0; 8]).await.unwrap_err();
        assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
        sim.heal();
        stream.set_deadline(None);
        let count = read(&mut stream, &mut [0; 8]).await.unwrap();
        (count, sim.now().as_millis())
    });
    // Retransmissions come 0.2, 0.6, 1.4, ... s after the first attempt.
    assert_eq!(arrived, (2, 1_401));
}

#[test]
fn a_moved_deadline_leaves_no_event_behind_for_each_move() {
    let sim = world(1);
    let transport = sim.transport("client");
    sim.block_on(async {
        let mut stream = connect(&transport, "a", SECOND).await.unwrap();
        for turn in 0..1_000 {
            stream.set_deadline(Some(transport.now() + SECOND * 30));
            let mut buffer = [0; 8];
            let reading = std::future::poll_fn(|cx| Poll::Ready(stream.poll_read(cx, &mut buffer)));
            assert!(reading.await.is_pending());
            assert!(sim.world().queue.len() < 50, "events pile up at turn {turn}");
            sim.sleep(Duration::from_millis(1)).await;
        }
        let error = read(&mut stream, &mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    });
    assert_eq!((sim.now().as_millis() + 500) / 1_000, 31);
}

#[test]
fn a_closed_connection_leaves_nothing_behind() {
    let sim = world(1);
    let transport = sim.transport("client");
    for _ in 0..10 {
        drop(sim.block_on(connect(&transport, "a", SECOND)).unwrap());
        sim.advance(SECOND);
    }
    assert_eq!(sim.world().connections.len(), 0);
}

// ---- faults

#[test]
fn members_are_found_by_name_and_strangers_are_errors() {
    let sim = world(1);
    assert_eq!(sim.kill("x"), Err(FaultError::Unknown("x".into())));
    sim.kill("b:27017").unwrap();
    assert_eq!(sim.kill("b"), Err(FaultError::NotRunning("b:27017".into())));
    sim.restart("b").unwrap();
    assert_eq!(sim.restart("b"), Err(FaultError::Running("b:27017".into())));
    assert_eq!(sim.add_member("c:27017"), Err(FaultError::Exists("c:27017".into())));
}

#[test]
fn every_fault_is_a_line_of_the_story() {
    let sim = world(1);
    sim.partition(&["a"], &["b", "c"]).unwrap();
    sim.heal();
    sim.kill("c").unwrap();
    let story = sim.timeline();
    let last: Vec<&str> = story.lines().rev().take(3).collect();
    assert_eq!(
        last,
        [
            "    0.000000  c:27017  killed (kill -9)",
            "    0.000000  world    heal",
            "    0.000000  world    partition a:27017 | b:27017, c:27017",
        ]
    );
}

#[test]
fn a_skewed_clock_shows_the_skew_and_a_drifting_one_does_not_jump() {
    let sim = world(1);
    sim.advance(SECOND * 1_000);
    sim.skew("a", -5_000).unwrap();
    sim.drift("a", 100).unwrap();
    let shown = |sim: &Sim| {
        let world = sim.world();
        world.nodes[0].clock.millis(world.now) - world.wall_millis()
    };
    assert_eq!(shown(&sim), -5_000);
    sim.advance(SECOND * 10_000);
    assert_eq!(shown(&sim), -4_000);
}

// ---- the outside

#[test]
fn a_connection_from_outside_is_refused_by_a_dead_member_and_closed_by_a_kill() {
    let sim = world(1);
    sim.kill("b").unwrap();
    assert!(sim.open_external("b", "127.0.0.1:5000").is_err());
    let id = sim.open_external("a", "127.0.0.1:5001").unwrap();
    sim.advance(SECOND);
    sim.kill("a").unwrap();
    sim.advance(SECOND);
    assert_eq!(sim.take_external_output(), [(id, super::ExternalOutput::Closed)]);
    assert_eq!(sim.world().connections.len(), 0);
}
