//! Owns the `etc` files that plugins bring for their symbols (`sources/<symbol>.yaml` and so on): installs
//! them, and takes them away again, without ever touching what somebody has edited.
//!
//! For each plugin there is a record, `data/portable/<plugin>.json`, of the files that the host has installed
//! and their checksums. A file is the host's as long as it has a recorded sum; one that was there before, or
//! has another sum, is the user's and stays as it is. What is about to be written is recorded first, beside what is
//! there, so that a host which is killed in between knows either again. Blocking; the manager drives it, one call per
//! plugin at a time.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mangrove_protocol::manifest::{Manifest, SymbolKind};
use mangrove_protocol::name::PluginName;

use super::checksum::Checksum;
use super::disk;
use super::package;

/// The largest file, bytes: as large as the host reads conf keys.
const MAX_SIZE: u64 = 1 << 20;

/// Where `etc` files and their records lie.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    etc: PathBuf,
    records: PathBuf,
}

/// The files of one plugin, relative to `etc`, and the sums that they were installed with: mostly one each.
type Record = BTreeMap<String, String>;

impl Settings {
    /// Those of the host in `home`.
    pub(super) fn new(home: &Path) -> Self {
        Self {
            etc: home.join("etc"),
            records: home.join("data/portable"),
        }
    }

    /// Brings `etc` in line with the plugin in `folder`: what is missing is installed, what the host has
    /// installed and nobody has edited is replaced by the plugin's own, or removed when the plugin no longer has
    /// it. A file that cannot be installed is only logged, because the plugin runs without. A second call does
    /// nothing.
    pub(super) fn install(&self, manifest: &Manifest, folder: &Path) {
        let brought = brought(manifest, folder);
        self.bring(&manifest.name, &brought);
    }

    /// Removes what was installed for `plugin` and nobody has edited.
    pub(super) fn remove(&self, plugin: &PluginName) {
        self.bring(plugin, &BTreeMap::new());
    }

    /// Does so for every plugin that was installed once and of which `is_there` knows nothing: its folder was
    /// deleted while the host was not running.
    pub(super) fn remove_departed(&self, is_there: impl Fn(&str) -> bool) {
        let records = match self.records.read_dir() {
            Ok(records) => records,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read {}: {error}", self.records.display());
                }
                return;
            }
        };
        for entry in records.flatten() {
            let name = entry.file_name();
            let plugin = name.to_str().and_then(|name| name.strip_suffix(".json"));
            let plugin = plugin.and_then(|name| name.parse::<PluginName>().ok());
            if let Some(plugin) = plugin.filter(|plugin| !is_there(plugin.as_str())) {
                self.remove(&plugin);
            }
        }
    }

    fn bring(&self, plugin: &PluginName, brought: &BTreeMap<String, Vec<u8>>) {
        let before = self.read_record(plugin);
        let old = match self.intend(plugin, brought, &before) {
            Ok(intended) => intended,
            Err(error) => {
                tracing::warn!(%plugin, "cannot record which etc files it is to have: {error}");
                before
            }
        };
        let mut new = Record::new();
        for (file, bytes) in brought {
            match self.bring_file(file, bytes, old.get(file)) {
                Ok(Some(sum)) => {
                    new.insert(file.clone(), sum);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%plugin, "cannot install {}: {error}", self.etc.join(file).display());
                }
            }
        }
        for (file, sum) in old.iter().filter(|(file, _)| !brought.contains_key(*file)) {
            if let Err(error) = self.remove_file(file, sum) {
                tracing::warn!(%plugin, "cannot remove {}: {error}", self.etc.join(file).display());
                new.insert(file.clone(), sum.clone());
            }
        }
        if new != old
            && let Err(error) = self.write_record(plugin, &new)
        {
            tracing::warn!(%plugin, "cannot record which etc files it has: {error}");
        }
    }

    /// Records the sums that files are about to have beside those that they have.
    fn intend(
        &self,
        plugin: &PluginName,
        brought: &BTreeMap<String, Vec<u8>>,
        before: &Record,
    ) -> io::Result<Record> {
        let mut intended = before.clone();
        for (file, bytes) in brought {
            let (recorded, sum) = (before.get(file), Checksum::of(bytes).to_string());
            match installed(&self.etc.join(file))? {
                Some(found) if found == sum || !has(recorded, &found) => {}
                _ => {
                    let sums = recorded.map_or_else(String::new, |recorded| format!("{recorded} "));
                    intended.insert(file.clone(), sums + &sum);
                }
            }
        }
        if intended != *before {
            self.write_record(plugin, &intended)?;
        }
        Ok(intended)
    }

    /// The sum to be recorded; `None` when the file is the user's.
    fn bring_file(&self, file: &str, bytes: &[u8], recorded: Option<&String>) -> io::Result<Option<String>> {
        let path = self.etc.join(file);
        let sum = Checksum::of(bytes).to_string();
        match installed(&path)? {
            None => {
                write(&path, bytes, false)?;
                Ok(Some(sum))
            }
            Some(found) if !has(recorded, &found) => {
                // Kept on record: should it be edited back, it is the host's again.
                Ok(recorded.cloned())
            }
            Some(found) if found == sum => Ok(Some(sum)),
            Some(_) => {
                write(&path, bytes, true)?;
                Ok(Some(sum))
            }
        }
    }

    fn remove_file(&self, file: &str, recorded: &String) -> io::Result<()> {
        let path = self.etc.join(file);
        match installed(&path)? {
            Some(found) if has(Some(recorded), &found) => std::fs::remove_file(path),
            _ => Ok(()),
        }
    }

    fn record(&self, plugin: &PluginName) -> PathBuf {
        self.records.join(format!("{plugin}.json"))
    }

    /// A record that is damaged counts as none: then every file is the user's.
    fn read_record(&self, plugin: &PluginName) -> Record {
        let path = self.record(plugin);
        let record = match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Record::new(),
            Err(error) => Err(error),
        };
        let mut record: Record = record.unwrap_or_else(|error| {
            tracing::warn!(%plugin, "{} is not looked at: {error}", path.display());
            Record::new()
        });
        // Only names that the host could have written become parts of a path.
        record.retain(|file, _| is_ours(file));
        record
    }

    fn write_record(&self, plugin: &PluginName, record: &Record) -> io::Result<()> {
        let path = self.record(plugin);
        if record.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        write(&path, &serde_json::to_vec_pretty(record)?, true)
    }
}

/// The files that the plugin in `folder` has for its own symbols. One that cannot be read is logged.
fn brought(manifest: &Manifest, folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for kind in SymbolKind::ALL {
        for symbol in manifest.symbols(kind) {
            for extension in ["yaml", "json"] {
                let file = format!("{}/{symbol}.{extension}", kind.plural());
                match package::read_inside(folder, &file, MAX_SIZE) {
                    Ok(Some(bytes)) => {
                        found.insert(file, bytes);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(plugin = %manifest.name, "its {file} is left out: {error}"),
                }
            }
        }
    }
    found
}

/// Whether a file of this sum is the host's.
fn has(recorded: Option<&String>, found: &str) -> bool {
    !found.is_empty() && recorded.is_some_and(|recorded| recorded.split(' ').any(|sum| sum == found))
}

/// `<kind>/<symbol>.<extension>`.
fn is_ours(file: &str) -> bool {
    let Some((folder, name)) = file.split_once('/') else {
        return false;
    };
    let symbol = name.strip_suffix(".yaml").or(name.strip_suffix(".json"));
    SymbolKind::ALL.iter().any(|kind| kind.plural() == folder)
        && symbol.is_some_and(|symbol| mangrove_protocol::name::check(symbol).is_ok())
}

/// The sum of what lies there; of a link or anything else that is no file, none that could be recorded.
fn installed(path: &Path) -> io::Result<Option<String>> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(found) if found.is_file() && found.len() <= MAX_SIZE => {
            Ok(Some(Checksum::read(std::fs::File::open(path)?)?.to_string()))
        }
        Ok(_) => Ok(Some(String::new())),
    }
}

/// Whole or not at all; unless `replace`, never over a file that appears meanwhile.
fn write(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let mut copy = tempfile::Builder::new()
        .prefix(".copy-")
        .permissions(PermissionsExt::from_mode(0o644))
        .tempfile_in(parent)?;
    io::Write::write_all(copy.as_file_mut(), bytes)?;
    copy.as_file().sync_all()?;
    let written = if replace {
        copy.persist(path)
    } else {
        copy.persist_noclobber(path)
    };
    written.map(drop).map_err(|error| error.error)?;
    // An error would have the host forget that the file is its own.
    disk::sync_done(parent);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        home: tempfile::TempDir,
        settings: Settings,
    }

    impl World {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let settings = Settings::new(home.path());
            Self { home, settings }
        }

        /// A version of the plugin "car" with these files.
        fn install(&self, files: &[(&str, &str)]) {
            let folder = tempfile::tempdir().unwrap();
            for (file, text) in files {
                let path = folder.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            self.settings.install(&manifest(), folder.path());
        }

        fn edit(&self, file: &str, text: &str) {
            let path = self.home.path().join("etc").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn read(&self, file: &str) -> Option<String> {
            std::fs::read_to_string(self.home.path().join("etc").join(file)).ok()
        }

        fn remove(&self) {
            self.settings.remove(&manifest().name);
        }
    }

    fn manifest() -> Manifest {
        let json = r#"{"version":"1","language":"go","executable":"x","sources":["json"],"sinks":["tell"]}"#;
        Manifest::parse(&"car".parse().unwrap(), json.as_bytes()).unwrap()
    }

    const YAML: &str = "sources/json.yaml";
    const TELL: &str = "sinks/tell.json";

    #[test]
    fn what_was_installed_goes_with_the_plugin() {
        let world = World::new();
        world.install(&[(YAML, "1"), (TELL, "2"), ("sources/mqtt.yaml", "not its own")]);
        assert_eq!(
            (world.read(YAML).as_deref(), world.read(TELL).as_deref()),
            (Some("1"), Some("2"))
        );
        assert_eq!(world.read("sources/mqtt.yaml"), None);
        world.remove();
        assert_eq!((world.read(YAML), world.read(TELL)), (None, None));
        assert_eq!(world.settings.records.read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_somebody_has_edited_stays_over_updates_and_removal() {
        let world = World::new();
        world.install(&[(YAML, "1"), (TELL, "1")]);
        world.edit(YAML, "mine");
        world.install(&[(YAML, "2"), (TELL, "2")]);
        assert_eq!(world.read(YAML).unwrap(), "mine");
        assert_eq!(world.read(TELL).unwrap(), "2");
        // Edited back, it is the host's again.
        world.edit(YAML, "1");
        world.install(&[(YAML, "3")]);
        assert_eq!((world.read(YAML).as_deref(), world.read(TELL)), (Some("3"), None));
        world.edit(YAML, "mine again");
        world.remove();
        assert_eq!(world.read(YAML).unwrap(), "mine again");
    }

    #[test]
    fn what_was_there_before_is_the_users_even_if_it_is_the_same() {
        let world = World::new();
        world.edit(YAML, "1");
        world.install(&[(YAML, "1")]);
        world.install(&[(YAML, "2")]);
        world.remove();
        assert_eq!(world.read(YAML).unwrap(), "1");
    }

    #[test]
    fn an_update_that_is_undone_brings_the_old_files_back() {
        let world = World::new();
        world.install(&[(YAML, "1")]);
        world.install(&[(YAML, "2"), (TELL, "2")]);
        world.install(&[(YAML, "1")]);
        assert_eq!((world.read(YAML).as_deref(), world.read(TELL)), (Some("1"), None));
    }

    #[test]
    fn a_host_that_is_killed_in_between_knows_its_files_again() {
        // As far as it comes: what it is about to do is written down, and perhaps done.
        let begin = |world: &World, text: &str, done: bool| {
            let plugin = manifest().name;
            let brought = [(YAML.to_owned(), text.as_bytes().to_vec())].into();
            let old = world.settings.read_record(&plugin);
            let intended = world.settings.intend(&plugin, &brought, &old).unwrap();
            if done {
                let recorded = intended.get(YAML);
                world
                    .settings
                    .bring_file(YAML, text.as_bytes(), recorded)
                    .unwrap();
            }
        };
        for done in [false, true] {
            let world = World::new();
            begin(&world, "1", done);
            world.settings.remove_departed(|_| false);
            assert_eq!(world.read(YAML), None);
            assert_eq!(world.settings.records.read_dir().unwrap().count(), 0);

            world.install(&[(YAML, "1")]);
            begin(&world, "2", done);
            world.install(&[(YAML, "1")]);
            assert_eq!(world.read(YAML).as_deref(), Some("1"));
            world.edit(YAML, "mine");
            begin(&world, "3", done);
            world.remove();
            assert_eq!(world.read(YAML).as_deref(), Some("mine"));
        }
    }

    #[test]
    fn who_left_while_the_host_was_down_is_cleared_away() {
        let world = World::new();
        world.install(&[(YAML, "1")]);
        world.settings.remove_departed(|name| name == "car");
        assert!(world.read(YAML).is_some());
        world.settings.remove_departed(|_| false);
        assert_eq!(world.read(YAML), None);
    }

    #[test]
    fn links_folders_and_false_records_lead_nowhere() {
        let world = World::new();
        let outside = world.home.path().join("outside");
        std::fs::write(&outside, "1").unwrap();
        world.edit("sources/x", "");
        std::os::unix::fs::symlink(&outside, world.home.path().join("etc").join(YAML)).unwrap();
        std::fs::create_dir_all(world.home.path().join("etc").join(TELL)).unwrap();
        let sum = Checksum::of(b"1").to_string();
        let record =
            serde_json::json!({YAML: sum, TELL: sum, "../outside": sum, "sources/../../outside": sum});
        std::fs::create_dir_all(&world.settings.records).unwrap();
        std::fs::write(world.settings.records.join("car.json"), record.to_string()).unwrap();
        world.install(&[(YAML, "2"), (TELL, "2")]);
        world.remove();
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "1");
        assert!(world.home.path().join("etc").join(YAML).is_symlink());

        std::fs::write(world.settings.records.join("car.json"), "{\"sources").unwrap();
        world.remove();
    }

    #[test]
    fn a_plugins_link_to_somebody_elses_file_is_not_copied() {
        let world = World::new();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sources")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join(YAML)).unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("sinks")).unwrap();
        world.settings.install(&manifest(), folder.path());
        assert_eq!(world.read(YAML), None);
    }
}
