use super::*;

/// A plugins' folder, and in it the hidden folder of an installation of "car".
struct World {
    portable: TempDir,
    placing: Placing,
}

impl World {
    /// `old`: there is an older version.
    fn new(old: bool) -> Self {
        let portable = tempfile::tempdir().unwrap();
        let hidden = hidden_folder(portable.path()).unwrap().keep();
        let placing = Placing::new("car".parse().unwrap(), &hidden);
        make(&placing.staged, "new");
        if old {
            make(&placing.place, "old");
        }
        Self { portable, placing }
    }

    /// The same, when the folders have changed places.
    fn put(old: bool) -> Self {
        let this = Self::new(old);
        this.placing.put().unwrap();
        assert_eq!(this.version().as_deref(), Some("new"));
        this
    }

    /// What a host that is started makes of it; nothing hidden may be left.
    fn restart(&self) -> Option<String> {
        let stuck = clean(self.portable.path()).unwrap();
        assert!(stuck.is_empty(), "{stuck:?}");
        assert!(!self.placing.hidden.exists());
        self.version()
    }

    fn version(&self) -> Option<String> {
        std::fs::read_to_string(self.placing.place.join("version")).ok()
    }
}

fn make(folder: &Path, version: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("version"), version).unwrap();
}

fn expected(old: bool) -> Option<String> {
    old.then(|| "old".to_owned())
}

#[test]
fn whenever_an_installation_is_cut_short_it_is_undone() {
    for old in [true, false] {
        // Before the journal, and with it.
        let world = World::new(old);
        assert_eq!(world.restart(), expected(old));
        let world = World::new(old);
        let journal = Journal {
            plugin: "car".to_owned(),
            new: Identity::of(&world.placing.staged).unwrap().unwrap(),
            old: Identity::of(&world.placing.place).unwrap(),
        };
        journal.write(&world.placing.hidden).unwrap();
        assert_eq!(world.restart(), expected(old));

        // In place, and undone already.
        assert_eq!(World::put(old).restart(), expected(old));
        let world = World::put(old);
        let undone = world.placing.undo().unwrap();
        assert_eq!(undone, Some(if old { Undone::Back } else { Undone::Gone }));
        assert_eq!(world.version(), expected(old));
        assert_eq!(world.placing.undo().unwrap(), Some(Undone::Nothing));
        assert_eq!(world.restart(), expected(old));

        // Accepted.
        let world = World::put(old);
        world.placing.accept().unwrap();
        assert_eq!(world.placing.undo().unwrap(), None);
        assert_eq!(world.restart().as_deref(), Some("new"));
    }
}

#[test]
fn a_file_system_that_cannot_exchange_in_one_step_loses_nothing_in_between() {
    // Each of the three renames there and of the three back may be the last one.
    for done in 0..=6 {
        let world = World::put(true);
        world.placing.undo().unwrap();
        let Placing {
            hidden,
            staged,
            place,
            ..
        } = &world.placing;
        let (attic, undone) = (hidden.join(ATTIC), hidden.join(UNDONE));
        let renames = [
            (place, &attic),
            (staged, place),
            (&attic, staged),
            (place, &undone),
            (staged, place),
            (&undone, staged),
        ];
        for (from, to) in &renames[..done] {
            std::fs::rename(from, to).unwrap();
        }
        assert_eq!(world.restart().as_deref(), Some("old"), "after {done}");
    }
}

#[test]
fn what_somebody_has_done_meanwhile_is_left_alone() {
    let world = World::put(true);
    std::fs::remove_dir_all(&world.placing.place).unwrap();
    make(&world.placing.place, "theirs");
    assert_eq!(world.restart().as_deref(), Some("theirs"));

    // Its own script has removed it.
    let world = World::put(true);
    std::fs::remove_dir_all(&world.placing.place).unwrap();
    assert_eq!(world.restart().as_deref(), Some("old"));
    let world = World::put(false);
    std::fs::remove_dir_all(&world.placing.place).unwrap();
    assert_eq!(world.restart(), None);
}

#[test]
fn what_cannot_be_undone_keeps_the_old_version() {
    // As in a copy of the home, in which nothing is what it was.
    let world = World::put(true);
    for folder in [&world.placing.place, &world.placing.staged] {
        let copy = world.portable.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::rename(folder.join("version"), copy.join("version")).unwrap();
        std::fs::remove_dir(folder).unwrap();
        std::fs::rename(&copy, folder).unwrap();
    }
    let stuck = clean(world.portable.path()).unwrap();
    let [Stuck { plugin, reason }] = &stuck[..] else {
        panic!("{stuck:?}");
    };
    let hidden = world.placing.hidden.to_string_lossy();
    assert!(plugin.as_str() == "car" && reason.contains(&*hidden), "{reason}");
    assert!(world.placing.staged.join("version").exists());

    // A damaged journal says nothing.
    let world = World::put(true);
    std::fs::write(world.placing.hidden.join(JOURNAL), "{").unwrap();
    assert!(clean(world.portable.path()).unwrap().is_empty());
    assert!(world.placing.staged.join("version").exists());

    // Nor does a name lead out of the folder.
    let world = World::put(true);
    let journal = Journal::read(&world.placing.hidden).unwrap().unwrap();
    let plugin = "../car".to_owned();
    Journal { plugin, ..journal }
        .write(&world.placing.hidden)
        .unwrap();
    assert!(clean(world.portable.path()).unwrap().is_empty());
    assert_eq!(world.version().as_deref(), Some("new"));
}

/// One update was cut short, and so was the next one.
fn put_twice() -> (World, Placing) {
    let world = World::put(true);
    let hidden = hidden_folder(world.portable.path()).unwrap().keep();
    let second = Placing::new("car".parse().unwrap(), &hidden);
    make(&second.staged, "newer");
    second.put().unwrap();
    assert_eq!(world.version().as_deref(), Some("newer"));
    (world, second)
}

#[test]
fn two_that_were_cut_short_are_undone_from_the_last_one_on() {
    // Whatever the clock says.
    for times in [[1, 2], [2, 1], [1, 1]] {
        let (world, second) = put_twice();
        for (hidden, seconds) in [&world.placing.hidden, &second.hidden].into_iter().zip(times) {
            let changed = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::open(hidden)
                .unwrap()
                .set_modified(changed)
                .unwrap();
        }
        assert_eq!(world.restart().as_deref(), Some("old"), "{times:?}");
        assert!(!second.hidden.exists());
    }
}

#[test]
fn what_is_behind_one_that_cannot_be_undone_is_kept() {
    let (world, second) = put_twice();
    let copy = world.portable.path().join("copy");
    make(&copy, "new");
    std::fs::remove_dir_all(&second.staged).unwrap();
    std::fs::rename(&copy, &second.staged).unwrap();
    assert_eq!(clean(world.portable.path()).unwrap().len(), 1);
    let kept = std::fs::read_to_string(world.placing.staged.join("version"));
    assert_eq!(kept.unwrap(), "old");
    assert_eq!(world.version().as_deref(), Some("newer"));
}

#[test]
fn what_is_removed_or_replaced_for_good_has_no_way_back() {
    let world = World::put(true);
    forget(world.portable.path(), "bus").unwrap();
    assert!(world.placing.hidden.exists());
    forget(world.portable.path(), "car").unwrap();
    assert!(!world.placing.hidden.exists());
    std::fs::remove_dir_all(&world.placing.place).unwrap();
    assert_eq!(world.restart(), None);
    forget(&world.placing.hidden, "car").unwrap();

    let (world, second) = put_twice();
    second.accept().unwrap();
    assert!(!world.placing.hidden.exists());
    assert_eq!(world.restart().as_deref(), Some("newer"));
}

#[test]
fn an_exchange_that_fails_half_way_is_no_removal() {
    let world = World::put(true);
    world.placing.undo().unwrap();
    std::fs::rename(&world.placing.place, world.placing.hidden.join(ATTIC)).unwrap();
    world.placing.withdraw(false, false).unwrap();
    assert_eq!(world.version().as_deref(), Some("old"));

    for is_own_doing in [false, true] {
        let world = World::put(true);
        std::fs::remove_dir_all(&world.placing.place).unwrap();
        world.placing.withdraw(true, is_own_doing).unwrap();
        assert_eq!(world.version(), expected(is_own_doing));
    }
    let world = World::put(true);
    std::fs::remove_file(world.placing.hidden.join(JOURNAL)).unwrap();
    world.placing.withdraw(true, false).unwrap_err();
}

#[test]
fn every_place_has_its_way_back() {
    use Is::{New, Nothing, Old, Other};
    let table = [
        // Nothing was exchanged, or all is undone.
        ((Old, New, false, true), Way::Leave),
        ((Nothing, New, false, false), Way::Leave),
        ((Nothing, Nothing, false, false), Way::Leave),
        // Exchanged.
        ((New, Old, false, true), Way::FromStaged),
        ((Nothing, Old, false, true), Way::FromStaged),
        ((New, Nothing, false, false), Way::TakeAway),
        // Half exchanged.
        ((Nothing, New, true, true), Way::FromAttic),
        ((New, Nothing, true, true), Way::FromAttic),
        // Somebody else's.
        ((Other, Old, false, true), Way::Leave),
        ((Other, Nothing, false, false), Way::Leave),
        ((Other, Nothing, true, true), Way::Leave),
        ((Other, Other, false, true), Way::Unknown),
        ((New, Nothing, false, true), Way::Unknown),
        ((New, Other, false, true), Way::Unknown),
    ];
    for ((place, staged, has_attic, was_update), expected) in table {
        assert_eq!(
            way_back(place, staged, has_attic, was_update),
            expected,
            "{place:?} {staged:?} {has_attic} {was_update}"
        );
    }
}

#[test]
fn environments_stay_with_the_version_that_is_in_place() {
    let world = World::new(true);
    std::fs::create_dir(world.placing.place.join(".venv-1")).unwrap();
    world.placing.put().unwrap();
    assert!(world.placing.place.join(".venv-1").exists());
    assert_eq!(world.restart().as_deref(), Some("old"));
    assert!(world.placing.place.join(".venv-1").exists());
}

#[test]
fn what_was_cut_short_is_removed_at_the_next_start_and_nothing_else() {
    let portable = tempfile::tempdir().unwrap();
    for name in [".staging-x/car", "car", ".hidden"] {
        std::fs::create_dir_all(portable.path().join(name)).unwrap();
    }
    assert!(clean(portable.path()).unwrap().is_empty());
    assert!(!portable.path().join(".staging-x").exists());
    assert!(portable.path().join("car").exists() && portable.path().join(".hidden").exists());
}

#[test]
fn folders_change_places_and_back() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let is = |a: bool, b: bool| (path("a/new").exists(), path("b/new").exists()) == (a, b);
    std::fs::create_dir_all(path("a/new")).unwrap();
    exchange(&path("a"), &path("b"), &path("c")).unwrap();
    assert!(is(false, true) && !path("a").exists());
    exchange(&path("a"), &path("b"), &path("c")).unwrap();
    assert!(is(true, false) && !path("b").exists());
    std::fs::create_dir(path("b")).unwrap();
    exchange(&path("a"), &path("b"), &path("c")).unwrap();
    assert!(is(false, true) && path("a").exists() && !path("c").exists());
    exchange(&path("x"), &path("y"), &path("c")).unwrap();
}

#[test]
fn folders_that_shut_themselves_are_opened_and_links_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let (folder, outside) = (home.path().join("folder"), home.path().join("outside"));
    std::fs::create_dir_all(folder.join("cache/deep")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for path in [&folder.join("cache/deep"), &folder.join("cache"), &outside] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o500)).unwrap();
    }
    open_folders(&folder);
    assert_eq!(mode(&folder.join("cache")), 0o700);
    assert_eq!(mode(&folder.join("cache/deep")), 0o700);
    assert_eq!(mode(&outside), 0o500);
    remove_all(&folder).unwrap();
    assert!(!folder.exists() && outside.exists());
}
