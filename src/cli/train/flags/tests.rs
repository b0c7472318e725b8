//! Tests of the flags: spellings of one experiment, refusals, lists.

use clap::CommandFactory;

use super::*;
use crate::methods::choice::{Domain, Entry, MethodOption};
use crate::methods::presets::{names, preset_name};

fn flags(line: &str) -> Flags {
    Flags::try_parse_from(std::iter::once("train").chain(line.split_whitespace())).expect("sound flags")
}

fn params(line: &str) -> serde_json::Value {
    let configs = flags(line).configs().expect("sound flags");
    assert_eq!(configs.len(), 1, "{line}");
    configs[0].params().into()
}

fn refused(line: &str) -> String {
    match Flags::try_parse_from(std::iter::once("train").chain(line.split_whitespace())) {
        Ok(flags) => flags.configs().expect_err(line).to_string(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn spellings_of_one_experiment_have_equal_params() {
    let mut methods = names();
    for mix in MixKind::ALL {
        for loss in LossKind::ALL.iter().filter(|loss| !loss.on_features) {
            for rule in RuleKind::ALL {
                let name = methods.next().expect("as many names as parts");
                let [mix, loss, rule] = [mix.entry(), loss.entry(), rule.entry()].map(|entry| entry.name);
                let orthogonal = format!("--mix {mix} --loss {loss} --rule {rule}");
                assert_eq!(params(&format!("--method {name}")), params(&orthogonal), "{name}");
            }
        }
    }
    assert_eq!(methods.next(), None);
    let same = [
        ("--method remix-drw", "--method mixup-rs --rule drw --mix remix"),
        ("--method remix", "--mix remix --alpha 1 --kappa 3.0 --tau .5 --lambda-per batch"),
        ("--method rw", "--rule rw --beta 9999e-4 --rw-norm weight-sum"),
        ("--method rs", "--rule rs --rs effective --beta 0.9999"),
        ("--method remix-cutmix-ldam", "--mix remix-cutmix --loss ldam --margin .5 --tau 0.5"),
        ("--method focal-rw", "--loss focal --gamma 2 --rule rw"),
        ("--loss logit-adjustment --la-tau 1", "--method logit-adjustment"),
        ("--recipe paper", "--milestones 150,250"),
        ("--recipe paper --epochs 10", "--milestones 5,8 --epochs 10"),
        ("", "--method erm --seed 0 --arch resnet32 --lr 1e-1 --recipe seed --weight-decay 0.0002"),
        ("--recipe report", "--recipe seed"),
        ("--epochs 2", "--epochs 2 --milestones none"),
        ("--epochs 4 --rule drw", "--epochs 4 --rule drw --milestones 3"),
        ("--seed 3", "--seeds 3"),
        ("--milestones 5,10 --recipe paper", "--milestones 5,10"),
        ("--no-augment", "--augment none"),
        ("--recipe tiny-imagenet", "--arch resnet18-cifar --epochs 120 --milestones 90 --crop-padding 8"),
        ("--recipe cinic10", "--recipe paper --arch resnet18-cifar"),
        (
            "--recipe imagenet-lt",
            "--arch resnet50 --epochs 90 --batch-size 512 --lr 0.2 --weight-decay 5e-4 \
             --schedule cosine --augment resized-crop-flip --color-jitter 0.4",
        ),
        ("--recipe imagenet-lt --epochs 30", "--recipe places-lt"),
        (
            "--recipe inaturalist --method remix",
            "--arch resnet50 --epochs 90 --batch-size 256 --milestones 30,60 --color-jitter 0.4 --method remix --alpha .4",
        ),
        ("--crop-padding 4 --color-jitter none --schedule step", ""),
    ];
    for (a, b) in same {
        assert_eq!(params(a), params(b), "{a} | {b}");
    }
}

#[test]
fn every_flag_of_the_experiment_reaches_the_params() {
    let plain = "--method remix-drw";
    let all = [
        "--arch resnet20",
        "--epochs 30",
        "--batch-size 64",
        "--lr 0.2",
        "--momentum 0",
        "--weight-decay 0",
        "--recipe paper",
        "--milestones 10,20",
        "--warmup 5",
        "--no-augment",
        "--select last",
        "--seed 1",
        "--mix mixup",
        "--loss focal",
        "--rule rw",
    ];
    for flag in all {
        assert_ne!(params(plain), params(&format!("{plain} {flag}")), "{flag}");
    }
    // Flags that cannot change the result do not change the params.
    assert_eq!(params(plain), params("--method remix-drw --threads 1 --device cpu --out x --force -v"));
}

#[test]
fn every_option_of_a_method_reaches_the_params() {
    /// Returns a value that an option accepts, other than its default.
    fn other(option: &MethodOption) -> Setting {
        let candidates: Vec<Setting> = match option.domain {
            Domain::Number { check, .. } => {
                [0.2, 0.6, 2.0].into_iter().filter(|x| check(*x)).map(Setting::Number).collect()
            }
            Domain::OneOf(_, words) => words.iter().map(|&(word, _)| Setting::Word(word)).collect(),
        };
        candidates.into_iter().find(|value| *value != option.default).expect("another value")
    }
    /// Sets each option of each entry, together with other flags.
    fn check<K: Kind>(more: &str) {
        for kind in K::ALL {
            let Entry { name, options, .. } = kind.entry();
            let usual = format!("--{} {name} {more}", K::PART);
            for option in *options {
                let line = format!("{usual} --{} {}", option.flag(), other(option));
                assert_ne!(params(&usual), params(&line), "{line}");
            }
        }
    }
    check::<MixKind>("");
    // Some losses are only for classifiers on features.
    check::<LossKind>("--classifier linear");
    check::<RuleKind>("");
}

/// Short runs keep their learning rate, but a deferred rule begins where it would in a long run, and the key
/// records both.
#[test]
fn a_deferred_rule_begins_in_short_runs_as_in_long_ones() {
    for (epochs, milestones, rule_from, begins) in [
        (1, vec![], Some(1), 1),
        (3, vec![], Some(2), 2),
        (4, vec![3], None, 3),
        (300, vec![150, 225], None, 225),
    ] {
        let config = flags(&format!("--rule drw --epochs {epochs}")).configs().expect("sound").remove(0);
        assert_eq!((config.milestones.clone(), config.rule_from), (milestones, rule_from), "{epochs}");
        assert_eq!(config.rule_from(), begins, "{epochs}");
        let params = config.params();
        assert_eq!(params.get("rule_from").and_then(|v| v.as_u64()), rule_from.map(u64::from), "{epochs}");
        let back: Config = serde_json::from_value(params.into()).expect("a config");
        assert_eq!(back, config);
        assert!(config.lr_at(1) == 0.1 && config.lr_at(epochs.min(2)) == 0.1);
    }
    assert!(params("--rule rw --epochs 1").get("rule_from").is_none(), "at once is at once");
}

/// LDAM's code lowers the rate once more, 20 epochs after its rule begins.
#[test]
fn a_deferred_rule_begins_where_it_is_told() {
    let of = |line: &str| flags(line).configs().map(|mut all| all.remove(0)).map_err(|e| e.to_string());
    let ldam = "--method ldam-drw --epochs 200 --milestones 161,161,181,181";
    let config = of(&format!("{ldam} --rule-from 161")).expect("sound");
    assert_eq!((config.recipe, config.rule_from()), (Origin::Custom, 161));
    assert!((config.lr_at(181) - 1e-5).abs() < 1e-11, "{}", config.lr_at(181));
    assert_eq!(of(&format!("{ldam} --rule-from 181")), of(ldam), "the default has one key");
    let at_a_milestone = of("--rule drw --rule-from 150").expect("sound");
    assert_eq!((at_a_milestone.recipe, at_a_milestone.rule_from()), (Origin::Custom, 150));
    assert_eq!(of("--rule drw --rule-from 225"), of("--rule drw"));
    assert!(of("--rule drw --schedule cosine --rule-from 7").is_ok_and(|config| config.rule_from() == 7));
    assert!(of("--rule drw --milestones none --rule-from 7").is_ok_and(|config| config.rule_from() == 7));
    let wrong = of("--rule drw --epochs 5 --rule-from 6").expect_err("too late");
    assert!(wrong.contains("--rule-from 6: must be one of the epochs"), "{wrong}");
    let wrong = of("--rule rw --rule-from 6").expect_err("at once");
    assert!(wrong.contains("it needs --rule drs or drw"), "{wrong}");
}

#[test]
fn options_show_in_the_name() {
    let name = |line| preset_name(params(line).as_object().expect("an object"));
    assert_eq!(name("--method remix --tau 0.3"), "remix(tau=0.3)");
    assert_eq!(name("--mix remix --rule rs --rs inverse"), "remix-rs(rs=inverse)");
    assert_eq!(name("--method remix --tau 0.5 --epochs 7"), "remix");
}

#[test]
fn refusals_say_what_to_do() {
    let all = [
        ("--method remx", "did you mean remix?"),
        ("--tau 0.3", "--tau: does nothing with this method; it needs --mix remix, remix-cutmix"),
        ("--method mixup --kappa 2", "needs --mix remix"),
        ("--gamma 1", "needs --loss focal"),
        ("--method ldam --la-tau 1", "needs --loss logit-adjustment"),
        ("--method remix --margin 1", "needs --loss ldam"),
        ("--method cutmix --tau 0.3", "needs --mix remix, remix-cutmix"),
        ("--method focal --gamma -1", "--gamma -1: must be between 0"),
        ("--method ldam --margin 3", "--margin 3: must be between 0 and 2"),
        ("--method logit-adjustment --la-tau nan", "--la-tau NaN: must be between 0"),
        ("--method ldam-remix", "joined by -"),
        ("--rule rw --rs inverse", "needs --rule rs"),
        ("--rule rs --rs inverse --beta 0.9", "needs --rs effective"),
        ("--rule drs --rw-norm batch-size", "needs --rule rw"),
        ("--lambda-per sample", "needs --mix"),
        ("--mix cmo --mix-prob 1.5", "--mix-prob 1.5: must be between 0 and 1"),
        ("--loss las", "is only for classifiers on features"),
        ("--loss las --classifier linear --smooth-head 1", "must be at least 0 and below 1"),
        ("--mix mixap", "[possible values: none, mixup, remix"),
        ("--epochs 0", "expected a whole number of at least 1"),
        ("--batch-size 0", "expected a whole number from 1 to 65536"),
        ("--lr -0.1", "--lr -0.1: must be a positive number"),
        ("--lr nan", "--lr NaN: must be a positive number"),
        ("--lr 1e-40", "--lr 1e-40: must be a positive number from 1.2e-38 to 3.4e38, such as 0.1"),
        ("--weight-decay 1e300", "--weight-decay 1e300: must be 0 or a positive number below 3.4e38"),
        ("--warmup -1", "expected a whole number of at least 0"),
        ("--warmup 5000000000", "the number is too large"),
        ("--seed -1", "expected a whole number of at least 0"),
        ("--sweep lr=1:2", "expected FLAG=FIRST:LAST:STEP, such as lr=0.05:0.2:0.05"),
        ("--method remix --tau 1.5", "--tau 1.5: must be between 0 (no Remix) and 1"),
        ("--method remix --kappa 0.5", "--kappa 0.5: must be at least 1"),
        ("--method remix --kappa inf", "--kappa inf: must be at least 1 and finite"),
        ("--method remix --alpha 1e-320", "--alpha 1e-320: must be between 0.001 and 1000"),
        ("--rule drw --milestones none", "a deferred rule starts at the last milestone"),
        ("--rule drw --milestones 400", "a deferred rule starts at the last milestone"),
        ("--milestones 5,x", "\"x\" is not an epoch"),
        ("--seeds 4-0", "write 0-4"),
        ("--seeds 0-9999999", "more than 1000 seeds"),
        ("--seeds a", "is not a seed"),
        ("--seeds 0-4 --seed 1", "cannot be used with"),
        ("--arch resnet33", "no architecture"),
        (
            "--crop-padding 4 --augment none",
            "--crop-padding: does nothing here; it needs --augment crop-flip",
        ),
        ("--crop-padding 65", "expected a whole number from 0 to 64"),
        ("--color-jitter 0.4,2,0.4", "--color-jitter 0.4,2,0.4: each number must be between 0 and 1"),
        ("--rand-augment 2", "expected 1 to 10 operations"),
        ("--rand-augment 11,9", "--rand-augment 11,9: expected 1 to 10 operations"),
    ];
    for (line, what) in all {
        let text = refused(line);
        assert!(text.contains(what), "{line}: {text}");
    }
}

/// Flags do nothing with a computed classifier even if their values are the defaults.
#[test]
fn idle_flags_are_refused_whatever_their_value() {
    let given = ["--method erm", "-m erm", "--momentum 0.9", "--warmup 0", "--seed 0", "--batch-size 128"];
    for flag in given.into_iter().chain(["--select last"]) {
        let text = refused(&format!("--classifier ncm {flag}"));
        assert!(text.contains("does nothing with this classifier"), "{flag}: {text}");
    }
    let command = Flags::command();
    for flag in OF_TRAINING {
        assert!(command.get_arguments().any(|arg| arg.get_long() == Some(flag)), "--{flag} exists");
    }
    flags("--classifier ncm --threads 1 --quiet").configs().expect("no flag of a training");
    flags("--classifier linear --momentum 0.9 --seed 0").configs().expect("it is trained");
}

#[test]
fn sweeps_set_a_flag() {
    let swept = |line: &str| {
        let args = std::iter::once("train").chain(line.split_whitespace()).map(OsString::from);
        flags(line).swept(args).map_err(|e| e.to_string())
    };
    for line in ["data --sweep lr=0.05:0.1:0.05", "--sweep lr=0.05:0.1:0.05 -- data"] {
        let all = swept(line).expect("two values");
        assert_eq!(all.iter().map(|flags| flags.lr).collect::<Vec<_>>(), [Some(0.05), Some(0.1)], "{line}");
        assert!(all.iter().all(|flags| flags.datasets == [PathBuf::from("data")]), "{line}");
    }
    let why = |line: &str| swept(line).expect_err(line);
    assert!(why("--sweep lr=0:1:1 --lr 1").contains("--lr is given as well"));
    assert!(why("--sweep sweep=0:1:1").contains("--sweep is given as well"));
    assert!(why("--sweep colour=0:1:1").contains("train has no flag --colour"));
    for flag in ["threads", "parallel", "out", "init"] {
        let text = why(&format!("--sweep {flag}=1:2:1"));
        assert!(text.contains("is not a numeric setting of the training"), "{flag}: {text}");
    }
    // A value that is the default is not the same as no value.
    assert!(why("--sweep momentum=0:0.8:0.1 --momentum 0.9").contains("--momentum is given as well"));
}

#[test]
fn lists_of_seeds() {
    let seeds = |line: &str| flags(line).configs().expect("sound").iter().map(|c| c.seed).collect::<Vec<_>>();
    assert_eq!(seeds(""), [0]);
    assert_eq!(seeds("--seed 18446744073709551615"), [u64::MAX]);
    assert_eq!(seeds("--seeds 0-4,7"), [0, 1, 2, 3, 4, 7]);
    assert_eq!(seeds("--seeds 3,0-4"), [3, 0, 1, 2, 4]);
}
