//! What a member holds, by tables: answers of the broker in, what it reads, commits and gives on out.

use taffrail_model::{PartitionIndex, TopicName};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);

fn place(partition: u32) -> TopicPartition {
    let topic = TopicName::parse("orders").expect("a name");
    TopicPartition::new(topic, PartitionIndex::new(partition))
}

fn answer(epoch: u32, assigned: &[(u32, u32)]) -> v1::HeartbeatResponse {
    let partitions = assigned.iter().map(|(partition, epoch)| v1::AssignedPartition {
        topic: "orders".into(),
        topic_id: "id".into(),
        partition: *partition,
        epoch: *epoch,
    });
    v1::HeartbeatResponse { epoch, partitions: partitions.collect(), ..Default::default() }
}

fn core(mode: Commit, now: Instant) -> Core {
    let mut core = Core::new("m".into(), mode);
    core.extend(now, TIMEOUT);
    core.assign(&answer(1, &[(0, 1), (1, 1)]));
    core
}

fn number(core: &Core, partition: u32) -> u64 {
    let held = core.held();
    held.iter().find(|held| held.place == place(partition)).expect("it is held").number
}

/// The application takes a batch that ends there.
#[track_caller]
fn hand_out(core: &mut Core, partition: u32, end: u64, now: Instant) {
    let number = number(core, partition);
    assert!(core.hand_out(&place(partition), number, Offset::new(end), now));
}

/// The application commits.
fn commit(core: &Core, partition: u32, offset: u64) -> Option<v1::OffsetCommit> {
    let number = number(core, partition);
    core.commit_of(&place(partition), number, Offset::new(offset), "m")
}

fn refusal() -> ServerError {
    ServerError {
        reason: "OFFSET_OUT_OF_RANGE".into(),
        message: String::new(),
        metadata: BTreeMap::new(),
        retry_after: None,
    }
}

fn due(core: &Core) -> Vec<(u32, u64)> {
    core.due().iter().map(|commit| (commit.partition, commit.offset)).collect()
}

fn owned(core: &Core) -> Vec<u32> {
    core.owned().partitions.iter().map(|it| it.partition).collect()
}

fn notices(core: &mut Core) -> Vec<String> {
    std::iter::from_fn(|| core.next_notice())
        .map(|notice| match notice {
            GroupEvent::Assigned(places) => format!("+{}", places.len()),
            GroupEvent::Revoked(places) => format!("-{}", places.len()),
            GroupEvent::Lost(places) => format!("!{}", places.len()),
            other @ (GroupEvent::Batch(_) | GroupEvent::Gap { .. }) => panic!("{other:?}"),
        })
        .collect()
}

const AUTO: Commit = Commit::Auto(Duration::from_secs(1));

#[test]
fn what_the_application_has_in_hand_is_not_committed_before_it_asks_for_more() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    assert_eq!(due(&core), []);
    core.finish_in_hand();
    assert_eq!(due(&core), [(0, 5)]);
    let commits = core.due();
    core.committed(&commits[0], false);
    assert_eq!(due(&core), []);
    hand_out(&mut core, 0, 9, now);
    core.drop_in_hand();
    core.finish_in_hand();
    assert_eq!(due(&core), [], "its handler failed");
}

#[test]
fn a_partition_is_given_on_once_what_was_handed_out_of_it_is_done_and_committed() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.assign(&answer(2, &[]));
    assert!(core.held().is_empty(), "nothing more of it is handed out");
    assert!(core.release(), "nobody has anything of partition 1");
    assert_eq!(owned(&core), [0]);
    assert!(!core.release());
    core.finish_in_hand();
    assert!(!core.release(), "it is not committed yet");
    let commits = core.due();
    core.committed(&commits[0], false);
    assert!(core.release());
    assert_eq!(owned(&core), []);
    assert_eq!(notices(&mut core), ["+2", "-2"]);
}

#[test]
fn an_application_that_commits_by_itself_is_told_before_a_partition_is_given_on() {
    let now = Instant::now();
    let mut core = core(Commit::Manual, now);
    assert_eq!(notices(&mut core), ["+2"]);
    hand_out(&mut core, 0, 5, now);
    core.finish_in_hand();
    assert_eq!(due(&core), []);
    core.assign(&answer(2, &[(1, 1)]));
    assert!(!core.release(), "it may want to commit");
    assert_eq!(notices(&mut core), ["-1"]);
    assert!(!core.release());
    core.finish_in_hand();
    assert!(core.release(), "it has asked for more since");
    // One of which all is committed goes at once.
    hand_out(&mut core, 1, 7, now);
    core.finish_in_hand();
    let commit = commit(&core, 1, 7).expect("it is held");
    core.committed(&commit, true);
    core.assign(&answer(3, &[]));
    assert!(core.release());
}

#[test]
fn nothing_is_handed_out_once_the_session_may_have_ended() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    let first = number(&core, 0);
    let late = now + TIMEOUT;
    assert!(!core.hand_out(&place(0), first, Offset::new(5), late));
    assert_eq!((owned(&core), notices(&mut core)), (vec![], vec!["+2".into(), "!2".into()]));
    // As long as nobody knows whether there is a session, nothing begins.
    core.assign(&answer(1, &[(0, 1)]));
    assert_eq!(owned(&core), []);
    // The broker has not taken it away: it begins anew, where it is committed.
    core.extend(late, TIMEOUT);
    core.assign(&answer(1, &[(0, 1)]));
    assert_ne!(number(&core, 0), first);
    assert!(!core.hand_out(&place(0), first, Offset::new(5), late), "that was read before");
}

#[test]
fn an_assignment_of_another_epoch_is_another_one() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    let first = number(&core, 0);
    let commit = core.commit_of(&place(0), first, Offset::new(5), "").expect("it is held");
    // Somebody has moved the group's offsets.
    core.assign(&answer(2, &[(0, 2), (1, 1)]));
    core.finish_in_hand();
    assert_eq!(due(&core), [], "what was in hand does not count");
    assert_eq!(core.commit_of(&place(0), first, Offset::new(5), ""), None, "nor if it is said");
    core.committed(&commit, true);
    assert_eq!(notices(&mut core), ["+2", "!1", "+1"]);
}

#[test]
fn what_comes_back_before_it_was_given_on_is_given_on_first_and_begins_anew() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    let first = number(&core, 0);
    hand_out(&mut core, 0, 5, now);
    core.assign(&answer(2, &[(1, 1)]));
    core.assign(&answer(3, &[(0, 1), (1, 1)]));
    assert!(!core.release());
    core.finish_in_hand();
    let commits = core.due();
    core.committed(&commits[0], false);
    assert!(core.release());
    assert_eq!(owned(&core), [0, 1]);
    assert_ne!(number(&core, 0), first);
}

#[test]
fn a_refused_commit_ends_the_assignment() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.finish_in_hand();
    let commits = core.due();
    core.stale(&commits[0]);
    assert_eq!((due(&core), owned(&core)), (vec![], vec![1]));
}

#[test]
fn a_commit_that_is_refused_for_good_is_told_once_and_holds_up_nothing() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.finish_in_hand();
    let commits = core.due();
    let error = refusal();
    core.cannot_commit(&commits[0], error.clone());
    assert_eq!(due(&core), []);
    assert_eq!((core.next_failure(), core.next_failure()), (Some((place(0), error)), None));
    assert_eq!(core.lost_due(), 1);
    core.assign(&answer(2, &[]));
    assert!(core.release());
    assert_eq!(owned(&core), []);
}

#[test]
fn what_the_application_did_not_finish_comes_again_unless_it_is_another_s() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.drop_in_hand();
    assert_eq!(core.take_unfinished(), Some(place(0)));
    hand_out(&mut core, 0, 5, now);
    core.drop_in_hand();
    core.lose_all();
    assert_eq!(core.take_unfinished(), None);
}

#[test]
fn whoever_goes_elsewhere_after_a_failure_gets_nothing_again() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.drop_in_hand();
    core.leave_place(&place(0));
    assert_eq!(core.take_unfinished(), None);
}

#[test]
fn more_that_was_done_since_is_not_refused_with_what_was() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.finish_in_hand();
    let commits = core.due();
    hand_out(&mut core, 0, 9, now);
    core.finish_in_hand();
    core.cannot_commit(&commits[0], refusal());
    assert_eq!(due(&core), [(0, 9)]);
}

#[test]
fn what_was_in_hand_and_is_lost_is_remembered_until_the_application_asks_for_more() {
    let now = Instant::now();
    let mut core = core(AUTO, now);
    hand_out(&mut core, 0, 5, now);
    core.assign(&answer(2, &[(0, 2), (1, 1)]));
    assert!(core.has_lost_in_hand());
    core.finish_in_hand();
    assert!(!core.has_lost_in_hand());
}

#[test]
fn whoever_commits_by_itself_loses_nothing_that_it_did_not_commit() {
    let now = Instant::now();
    let mut core = core(Commit::Manual, now);
    hand_out(&mut core, 0, 5, now);
    core.finish_in_hand();
    core.lose_all();
    assert_eq!((core.lost_due(), core.has_lost_in_hand()), (0, false));
}
