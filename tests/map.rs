//! `lhrecover map`: the picture is drawn from the figures of `inspect`, looks right in a real browser, and holds nothing
//! but text of what is on the disk. No source is changed by it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::browser::{self, Browser, Light};
use common::chain::{Chain, Mark, edit, image, snapshot};
use common::cli::{Ran, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::{fixture, scratch, text};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Draws between two fingerprints of the replica.
#[track_caller]
fn map(dir: &Path, more: &[&str]) -> Ran {
    let before = Fingerprint::of(dir);
    let ran = lhrecover(&[&["map", text(dir), "--progress", "none"], more].concat());
    before.assert_unchanged(dir, &more.join(" "));
    ran
}

fn inspect(dir: &Path) -> Value {
    lhrecover(&["inspect", text(dir), "--json"]).json()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// Bytes that each layer serves, by its place, added up over the cells.
fn served(map: &Value) -> Vec<u64> {
    let mut served = vec![0; list(&map["layers"]).len()];
    for share in list(&map["cells"]).iter().flat_map(|cell| list(&cell["layers"])) {
        served[usize::try_from(number(&share["layer"])).unwrap()] += number(&share["data_bytes"]);
    }
    served
}

#[test]
fn the_cells_hold_what_inspect_says_and_cover_the_volume() {
    for id in [
        "01-base-only",
        "05-deep-chain-40",
        "06-deep-chain-249",
        "07-expansion",
        "10-512-unaligned",
        "12a-qcow2-backing",
        "16-ext4-sqlite",
        "18-fragmented",
        "23-huge-sparse",
    ] {
        let fixture = fixture(id);
        let (dir, truth) = fixture.replica();
        let backing = fixture.backing();
        let more = backing.iter().flat_map(|path| ["--backing-file", text(path)]).collect::<Vec<_>>();
        let drawn = map(&dir, &[&["--json"], &more[..]].concat()).json();
        let inspected = lhrecover(&[&["inspect", text(&dir), "--json"], &more[..]].concat()).json();
        for (key, value) in inspected.as_object().unwrap() {
            assert_eq!(&drawn[key], value, "{id}: {key}");
        }
        let told: Vec<_> =
            list(&inspected["layers"]).iter().map(|l| l["served_bytes"].as_u64().unwrap_or(0)).collect();
        assert_eq!(served(&drawn), told, "{id}");
        let cells = list(&drawn["cells"]);
        let volume = number(&truth["size"]);
        assert!(!cells.is_empty() && cells.len() <= 1024, "{id}: {}", cells.len());
        assert_eq!(
            (number(&drawn["volume_bytes"]), number(&cells[cells.len() - 1]["end_bytes"])),
            (volume, volume)
        );
        let mut at = 0;
        for cell in cells {
            assert_eq!(number(&cell["start_bytes"]), at, "{id}");
            at = number(&cell["end_bytes"]);
            let parts = list(&cell["layers"]).iter();
            let parts = parts.map(|p| number(&p["data_bytes"]) + number(&p["unwritten_bytes"])).sum::<u64>();
            assert_eq!(parts + number(&cell["hole_bytes"]), at - number(&cell["start_bytes"]), "{id}");
        }
    }
}

#[test]
fn a_snapshot_has_a_map_of_its_own_and_what_is_newer_is_beside_it() {
    let chain = Chain::of(MIB, &[&[(0, 8, Mark::Data)], &[(4, 8, Mark::Data)], &[(0, 64, Mark::Data)]]);
    let disk = scratch();
    let dir = chain.write_to(disk.path());
    let drawn = map(&dir, &["--json", "--at", &snapshot(1)]).json();
    assert_eq!((&drawn["view"], &drawn["top_layer"]), (&json!("snapshot"), &json!(image(&snapshot(1)))));
    assert_eq!(served(&drawn)[..2], [8 * 4096, 4 * 4096]);
    assert_eq!(drawn["layers"][2]["place"], "above");
    assert_eq!(drawn["data_bytes"], 12 * 4096);
    map(&dir, &["--at", "nothing"]).exits(2).says(&["there is no snapshot \"nothing\""]);
}

/// A volume with everything that a picture can show: a removed layer, labels, preallocated room above data.
fn marked(disk: &Path) -> PathBuf {
    let chain = Chain::of(
        8 * MIB,
        &[
            &[(0, 700, Mark::Data)],
            &[(300, 100, Mark::Data)],
            &[(640, 20, Mark::Preallocated), (9, 1, Mark::Data)],
        ],
    );
    let dir = chain.write_to(disk);
    let meta = dir.join(format!("{}.meta", image(&snapshot(1))));
    edit(
        &meta,
        &[
            ("Removed", json!(true)),
            ("Created", json!("2026-08-18T11:54:39Z")),
            ("Labels", json!({"app": "db"})),
        ],
    );
    dir
}

#[test]
fn the_strip_in_a_terminal_and_outside_one() {
    let disk = scratch();
    let dir = marked(disk.path());
    if common::scratch_has_fiemap() {
        assert_golden("map/marked", disk.path(), &map(&dir, &[]));
        let text = map(&dir, &[]).text().to_owned();
        let strip: Vec<_> = text.lines().skip(1).take(2).collect();
        assert_eq!(strip[0].len(), 80);
        assert_eq!(strip[1].find('!'), Some(640 * 80 / 2048));
    }
    // A terminal 60 columns wide, with and without colours.
    let on_terminal = |settings: &str| {
        let emulator = std::env::var(common::cli::EMULATOR).unwrap_or_default();
        let program = format!("{settings} {emulator} {}", common::cli::PROGRAM);
        let command = format!("stty cols 60 rows 24; {program} map '{}'", dir.display());
        let ran =
            std::process::Command::new("script").args(["-qec", &command, "/dev/null"]).output().unwrap();
        String::from_utf8(ran.stdout).unwrap().lines().nth(1).unwrap().trim_end().to_owned()
    };
    let plain = on_terminal("NO_COLOR=1");
    assert!(plain.len() == 60 && plain.starts_with(['a', 'b', 'c']), "{plain}");
    let coloured = on_terminal("NO_COLOR= TERM=xterm COLORTERM=truecolor");
    assert!(coloured.starts_with("\u{1b}[38;2;"), "{coloured:?}");
    assert_eq!(coloured.matches("[0m").count(), 60 - plain.matches(['.', '-']).count());
    assert!(on_terminal("NO_COLOR= TERM=xterm COLORTERM=").starts_with("\u{1b}[38;5;"));
    assert_eq!(on_terminal("NO_COLOR= TERM=dumb COLORTERM=truecolor"), plain);
}

#[test]
fn what_cannot_be_read_is_drawn_as_far_as_it_can_be() {
    for id in ["13a-rebuilding-broken-chain", "15a-volume-meta-empty"] {
        let fixture = fixture(id);
        // The last one is the one that is not whole.
        let (dir, _) = fixture.replicas().pop().unwrap();
        let page = fixture.dir.path().join("page.html");
        let ran = map(&dir, &["--html", text(&page), "--svg", text(&page.with_extension("svg"))]).exits(1);
        assert!(fs::read_to_string(&page).unwrap().contains("<h2>Findings</h2>"));
        assert_golden(&format!("map/{id}"), fixture.dir.path(), &ran);
    }
    lhrecover(&["map", text(&scratch().path().join("none"))]).exits(3);
}

#[test]
fn the_ranking_is_that_of_the_scan() {
    let fixture = fixture("19-three-nodes");
    let scan = fixture.dir.path().join("scan.json");
    let dirs: Vec<_> = fixture.replicas().into_iter().map(|(dir, _)| dir).collect();
    let mut args = vec!["scan", "--json", "--node-name", "here"];
    args.extend(dirs.iter().map(|dir| text(dir)));
    let scanned = lhrecover(&args);
    fs::write(&scan, &scanned.stdout).unwrap();
    let ranked = scanned.json()["volumes"][0]["replicas"].clone();
    for dir in dirs {
        let drawn = map(&dir, &["--json", "--ranking", text(&scan)]).json();
        assert_eq!(list(&drawn["ranking"]["replicas"]).len(), list(&ranked).len());
        for (drawn, ranked) in list(&drawn["ranking"]["replicas"]).iter().zip(list(&ranked)) {
            for key in ["node", "path", "verdict", "reasons"] {
                assert_eq!(drawn[key], ranked[key]);
            }
            assert_eq!(
                drawn["is_this"],
                text(&dir.canonicalize().unwrap()) == ranked["path"].as_str().unwrap()
            );
        }
    }
    let other = scratch();
    let stranger = marked(other.path());
    // Of one volume it is taken to be one; of several, or of none, it cannot be told.
    map(&stranger, &["--ranking", text(&scan)]).says(&[]);
    fs::write(&scan, r#"{"schema_version":1}"#).unwrap();
    map(&stranger, &["--ranking", text(&scan)]).exits(2).says(&["pvc-1-0a1b2c3d", "lhrecover scan --volume"]);
    fs::write(&scan, "{}").unwrap();
    map(&stranger, &["--ranking", text(&scan)]).exits(2).says(&["not what a scan prints"]);
}

#[test]
fn files_are_not_overwritten_unasked_and_never_written_to_the_source() {
    let disk = scratch();
    let dir = marked(disk.path());
    let (svg, html) = (disk.path().join("map.svg"), disk.path().join("map.html"));
    let both = ["--svg", text(&svg), "--html", text(&html)];
    map(&dir, &both).says(&["wrote", "map.svg", "map.html"]);
    let first = fs::read(&svg).unwrap();
    fs::write(&html, "precious").unwrap();
    map(&dir, &both).exits(5).says(&["--force"]);
    assert_eq!(fs::read_to_string(&html).unwrap(), "precious");
    map(&dir, &[&both[..], &["--force"]].concat());
    assert!(fs::read_to_string(&html).unwrap().starts_with("<!doctype html>"));
    assert_eq!(fs::read(&svg).unwrap(), first, "the same replica makes the same picture");
    for inside in [dir.join("map.svg"), dir.join("sub/map.svg")] {
        map(&dir, &["--svg", text(&inside)]);
        assert!(!inside.exists());
    }
    map(&dir, &["--html", text(&dir.join("map.html"))]).exits(5).says(&["inside the replica directory"]);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 3, "nothing is left over");
}

#[test]
fn the_picture_is_well_formed_and_has_a_cell_for_each() {
    for id in ["05-deep-chain-40", "08-revert-branches", "13a-rebuilding-broken-chain", "16-ext4-sqlite"] {
        let fixture = fixture(id);
        let (dir, _) = fixture.replica();
        let svg = fixture.dir.path().join("map.svg");
        let drawn = map(&dir, &["--json", "--svg", text(&svg)]).json();
        let svg = fs::read_to_string(&svg).unwrap();
        let tree = roxmltree::Document::parse(&svg).unwrap();
        let cells: Vec<_> = tree
            .descendants()
            .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "g")))
            .collect();
        assert_eq!(cells.len(), list(&drawn["cells"]).len(), "{id}");
        for (cell, drawn) in cells.iter().zip(list(&drawn["cells"])) {
            let title = cell.first_element_child().and_then(|title| title.text()).unwrap();
            let bytes = format!("bytes {} – {}", drawn["start_bytes"], drawn["end_bytes"]);
            assert_eq!(title.lines().nth(1), Some(bytes.as_str()));
        }
        // Nothing outside the file is named but the names of what it is.
        assert!(!svg.replace("http://www.w3.org/2000/svg", "").contains("://"));
    }
}

/// A page of a replica.
struct Shown {
    browser: Browser,
    page: PathBuf,
}

impl Shown {
    /// Draws the replica and opens the page; `None` where there is no browser.
    fn new(test: &str, dir: &Path, out: &Path, more: &[&str]) -> Option<Shown> {
        let browser = browser::start(test)?;
        let page = out.join("page.html");
        map(dir, &[&["--html", text(&page)], more].concat());
        Some(Shown { browser, page })
    }

    fn open(&mut self, width: u32, light: Light) {
        self.browser.open(&self.page, width, light);
    }

    #[track_caller]
    fn assert_quiet(&mut self) {
        assert_eq!(self.browser.complaints(), [""; 0]);
        assert_eq!(self.browser.requests(), [""; 0]);
    }
}

#[test]
fn the_figures_on_the_page_are_those_of_inspect() {
    let fixture = fixture("16-ext4-sqlite");
    let (dir, _) = fixture.replica();
    let Some(mut shown) =
        Shown::new("the_figures_on_the_page_are_those_of_inspect", &dir, fixture.dir.path(), &[])
    else {
        return;
    };
    shown.open(1280, Light::Light);
    let inspected = inspect(&dir);
    let figures = shown.browser.eval(
        "Object.fromEntries([...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.dataset.bytes ?? e.textContent]))",
    );
    assert_eq!(figures["volume_bytes"], inspected["volume"]["size_bytes"].to_string());
    assert_eq!(figures["data_bytes"], inspected["data_bytes"].to_string());
    assert_eq!(figures["allocated_bytes"], inspected["allocated_bytes"].to_string());
    assert_eq!(figures["layers"], list(&inspected["layers"]).len().to_string());
    assert_eq!(figures["findings"], list(&inspected["findings"]).len().to_string());
    let layers = shown.browser.eval(
        "[...document.querySelectorAll('.layers li')].map(e => [e.dataset.file, e.dataset.servedBytes, e.querySelector('.when').textContent])",
    );
    assert_eq!(list(&layers).len(), list(&inspected["layers"]).len());
    for (shown, told) in list(&layers).iter().zip(list(&inspected["layers"])) {
        assert_eq!(
            (&shown[0], shown[1].as_str().unwrap()),
            (&told["file"], told["served_bytes"].to_string().as_str())
        );
        assert!(shown[2].as_str().unwrap().starts_with(told["created"].as_str().unwrap()));
    }
    let cells = shown.browser.eval("document.querySelectorAll('#cells b').length");
    let points = shown.browser.eval("document.querySelectorAll('.axis b').length");
    assert_eq!((cells, points), (json!(1024), json!(4)));
    shown.assert_quiet();
}

/// The least contrast (WCAG 2) of any text that shows, and where.
const CONTRAST: &str = r#"(() => {
  const parse = text => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
  let least = [99, ''], count = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.tagName === 'SCRIPT' || !e.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    count++;
    if (contrast < least[0]) least = [contrast, walk.currentNode.data];
  }
  return { least, count };
})()"#;

#[test]
fn light_and_dark_can_be_read_on_a_desk_and_on_a_phone() {
    let disk = scratch();
    let dir = marked(disk.path());
    let scan = disk.path().join("scan.json");
    fs::write(&scan, &lhrecover(&["scan", "--json", text(&dir)]).stdout).unwrap();
    let test = "light_and_dark_can_be_read_on_a_desk_and_on_a_phone";
    let Some(mut shown) = Shown::new(test, &dir, disk.path(), &["--ranking", text(&scan)]) else { return };
    let mut grounds = Vec::new();
    for light in [Light::Light, Light::Dark] {
        for width in [1280, 390] {
            shown.open(width, light);
            let contrast = shown.browser.eval(CONTRAST);
            assert!(contrast["least"][0].as_f64().unwrap() >= 4.5, "{light:?}: {contrast}");
            assert!(number(&contrast["count"]) > 30);
            let wide = shown
                .browser
                .eval("[document.documentElement.scrollWidth, document.documentElement.clientWidth]");
            assert_eq!(wide[0], wide[1], "{width}: nothing is cut off or scrolled to");
            grounds.push(shown.browser.eval("getComputedStyle(document.body).backgroundColor"));
            shown.browser.picture(&format!("{width}-{light:?}"));
        }
    }
    assert_ne!(grounds[0], grounds[2]);
    shown.assert_quiet();
}

#[test]
fn pointing_at_a_cell_tells_its_range_and_layers_and_keys_do_too() {
    let disk = scratch();
    let dir = marked(disk.path());
    let test = "pointing_at_a_cell_tells_its_range_and_layers_and_keys_do_too";
    let Some(mut shown) = Shown::new(test, &dir, disk.path(), &[]) else { return };
    shown.open(1280, Light::Dark);
    let tip = "document.getElementById('tip').innerText";
    let browser = &mut shown.browser;
    assert_eq!(browser.eval("document.getElementById('tip').checkVisibility()"), json!(false));
    // Sectors 8 and 9, of which the head serves one.
    browser.hover("#cells b:nth-child(5)");
    let told = browser.eval(tip);
    assert_eq!(told, "32 KiB – 40 KiB\nbytes 32768 – 40960\nvolume-head-001.img: 4 KiB\ns000: 4 KiB");
    let label = browser.eval("document.querySelector('#cells b:nth-child(5)').getAttribute('aria-label')");
    assert_eq!(label.as_str().unwrap(), told.as_str().unwrap().replace('\n', ", "));
    browser.picture("pointed-at");
    browser.eval("document.querySelector('#cells b').focus()");
    browser.press("ArrowRight");
    assert!(browser.eval(tip).as_str().unwrap().starts_with("8 KiB – 16 KiB\n"));
    browser.press("ArrowDown");
    let columns = number(
        &browser
            .eval("getComputedStyle(document.getElementById('cells')).gridTemplateColumns.split(' ').length"),
    );
    let expected = format!("bytes {} – ", (columns + 1) * 8192);
    assert!(browser.eval(tip).as_str().unwrap().contains(&expected), "{expected}");
    browser.press("End");
    assert!(browser.eval(tip).as_str().unwrap().ends_with("no layer: 8 KiB"));
    browser.press("Escape");
    assert_eq!(browser.eval("document.getElementById('tip').checkVisibility()"), json!(false));
    // A layer that is pointed at stands out.
    browser.hover(".layers li:nth-child(2)");
    let standing_out = browser.eval("document.querySelectorAll('#cells.only b.on').length");
    assert_eq!(standing_out, json!(50), "100 sectors in cells of two");
    shown.assert_quiet();
}

#[test]
fn findings_are_marked_where_they_are() {
    let disk = scratch();
    let dir = marked(disk.path());
    if !common::scratch_has_fiemap() {
        eprintln!("findings_are_marked_where_they_are skipped: there is no FIEMAP here");
        return;
    }
    let test = "findings_are_marked_where_they_are";
    let Some(mut shown) = Shown::new(test, &dir, disk.path(), &[]) else { return };
    shown.open(1280, Light::Light);
    let marked = shown
        .browser
        .eval("[...document.querySelectorAll('#cells b')].flatMap((e, i) => 'f' in e.dataset ? [i] : [])");
    assert_eq!(marked, json!((320..330).collect::<Vec<_>>()), "20 preallocated sectors from 640 on");
    shown.browser.hover("#cells b:nth-child(321)");
    let told = shown.browser.eval("document.getElementById('tip').innerText");
    let told = told.as_str().unwrap();
    assert!(
        told.contains("8 KiB never written") && told.ends_with("warning: unwritten-hides-data"),
        "{told}"
    );
    shown.assert_quiet();
}

#[test]
fn names_labels_and_whatever_else_is_on_the_disk_are_text() {
    let attacks = [
        "<img src=x onerror=document.title='owned'>",
        "\"><script>document.title='owned'<&script>",
        "' onmouseover='document.title=1' x='",
        "]]>&lt;b&gt;&#60;i&#62;",
        "${alert(1)}{{7*7}}\u{202e}\u{1b}[31m\u{ffff}",
    ];
    let disk = scratch();
    let writes: Vec<_> = (0..6).map(|place| [(place, 8, Mark::Data)]).collect();
    let writes: Vec<&[_]> = writes.iter().rev().map(|writes| &writes[..]).collect();
    let volume = Chain::of(MIB, &writes);
    let dir = volume.write_to(disk.path());
    let mut parent = String::new();
    for (place, attack) in attacks.iter().enumerate() {
        let file = image(&attack.replace('/', "&"));
        fs::rename(dir.join(volume.file(place)), dir.join(&file)).unwrap();
        fs::rename(dir.join(format!("{}.meta", volume.file(place))), dir.join(format!("{file}.meta")))
            .unwrap();
        let labels =
            json!({ *attack: format!("</script>{attack}"), "--></style><svg onload=alert(1)>": "x" });
        let changes = [
            ("Name", json!(file)),
            ("Parent", json!(parent)),
            ("Labels", labels),
            ("Created", json!(attack)),
        ];
        edit(&dir.join(format!("{file}.meta")), &changes);
        parent = file;
    }
    edit(&dir.join(format!("{}.meta", common::chain::HEAD)), &[("Parent", json!(parent))]);
    edit(
        &dir.join("volume.meta"),
        &[("Parent", json!(parent)), ("Error", json!("</p><script>document.title='owned'</script>"))],
    );
    let scan = disk.path().join("scan.json");
    let node = json!({"node": attacks[0], "path": format!("/x/{}", attacks[1]), "volume": attacks[2], "trouble": [attacks[0]]});
    fs::write(&scan, json!({"schema_version": 1, "volumes": [{"replicas": [node]}]}).to_string()).unwrap();

    let svg = disk.path().join("map.svg");
    let drawn = map(&dir, &["--json", "--svg", text(&svg), "--ranking", text(&scan)]).json();
    assert_eq!(list(&drawn["layers"]).len(), 6, "{drawn}");
    let svg = fs::read_to_string(&svg).unwrap();
    let tree = roxmltree::Document::parse(&svg).unwrap();
    let shapes = ["svg", "title", "desc", "style", "rect", "text", "g", "path"];
    for node in tree.descendants().filter(roxmltree::Node::is_element) {
        assert!(shapes.contains(&node.tag_name().name()), "{node:?}");
        assert!(node.attributes().all(|attribute| !attribute.name().starts_with("on")), "{node:?}");
    }
    assert!(tree.descendants().any(|node| node.text().is_some_and(|text| text.contains(attacks[0]))));

    let test = "names_labels_and_whatever_else_is_on_the_disk_are_text";
    let Some(mut shown) = Shown::new(test, &dir, disk.path(), &["--ranking", text(&scan)]) else { return };
    shown.open(1280, Light::Light);
    shown.browser.hover("#cells b");
    let told = shown.browser.eval("document.getElementById('tip').innerText");
    assert!(told.as_str().unwrap().contains("volume-head"), "{told}");
    assert_eq!(shown.browser.eval("document.title"), "pvc-1-0a1b2c3d");
    let strange = "[...document.querySelectorAll('img, svg, iframe, object, embed, base, form, a')].length \
                   + document.querySelectorAll('script').length - 1 + document.querySelectorAll('style').length - 1 \
                   + [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => a.name.startsWith('on')).length";
    assert_eq!(shown.browser.eval(strange), json!(0));
    let names = shown.browser.eval("[...document.querySelectorAll('.layers .name')].map(e => e.textContent)");
    assert!(list(&names).contains(&json!(attacks[0])), "{names}");
    shown.assert_quiet();
}
