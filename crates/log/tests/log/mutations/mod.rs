//! Whatever is changed in one file of a directory: what is read is right, what is not right is
//! refused by name, nothing vanishes, nothing is given out or appended twice, and all else goes on.
//!
//! Each byte is flipped, each file is cut at each length, emptied, removed, replaced and continued.
//! Only what no durable recovery point covers may be taken for a torn tail, and is kept aside then.

mod image;
mod judge;
mod mutation;
mod outcome;
mod unreadable;
mod unwritable;

use std::path::Path;

use crate::given::{Numbers, is_deep};
use image::{Image, elsewhere, images};
use judge::Judge;
use mutation::{Kind, Mutation};

/// Changes each file of each image in each of these ways.
fn check(kinds: impl Fn(&Path, &[u8], &Image) -> Vec<Kind>) {
    let mut count = 0;
    for image in &images() {
        let judge = Judge::new(image);
        for (path, contents) in image.memory.files() {
            for kind in kinds(&path, &contents, image) {
                judge.check(&Mutation { path: path.clone(), kind });
                count += 1;
            }
        }
    }
    eprintln!("{count} mutations");
}

#[test]
fn without_a_change_all_is_as_it_was() {
    check(|_, _, _| vec![Kind::Nothing]);
}

#[test]
fn a_flipped_bit_is_noticed_and_loses_nothing_else() {
    check(|_, contents, _| {
        let flips = (0..contents.len()).flat_map(|position| {
            let bits = if is_deep() { 0..8 } else { position % 8..position % 8 + 1 };
            bits.map(move |bit| Kind::Flip { position, bits: 1 << bit })
        });
        flips.collect()
    });
}

#[test]
fn a_byte_turned_over_is_noticed_and_loses_nothing_else() {
    let flip = |position| Kind::Flip { position, bits: 0xff };
    check(|_, contents, _| (0..contents.len()).map(flip).collect());
}

#[test]
fn a_file_that_is_cut_short_loses_its_end_and_nothing_else() {
    check(|_, contents, _| (0..contents.len()).map(|length| Kind::Cut { length }).collect());
}

#[test]
fn a_file_that_is_gone_takes_nothing_else_along() {
    check(|_, _, _| vec![Kind::Remove]);
}

#[test]
fn garbage_behind_a_file_is_not_taken_for_anything() {
    let mut numbers = Numbers::new(3);
    let random: Vec<_> = (0..700).map(|_| numbers.next() as u8).collect();
    check(|_, contents, _| {
        let garbage = [vec![0x12], vec![0; 512], random.clone(), contents.to_vec()];
        garbage.map(|bytes| Kind::Append { bytes }).into()
    });
}

#[test]
fn a_file_of_another_log_is_refused_or_passed_over() {
    let elsewhere = elsewhere().files();
    check(|path, contents, image| {
        let others = [image.memory.files(), elsewhere.clone()].concat();
        let others = others
            .into_iter()
            .filter(|(other, bytes)| other.file_name() == path.file_name() && bytes != contents);
        others.map(|(_, bytes)| Kind::Replace { bytes }).collect()
    });
}
