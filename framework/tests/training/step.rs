//! What holds for every step of training.

use crate::toy::{Layer, Toy, apart, batch, bits, loss, measure};
use framework::train::{
    Adam, Average, Loss, Named, Optimiser, Rate, Report, Settings, State, Step, Trainable, WarmUp, cast, clipped,
    global_norm,
};
use framework::{
    Adapter, Array, Dtype, Error, Init, Linear, Param, Result, Route, call, math, memory::bounded, module, params,
};
use mlx_rs::{memory, random};

fn settings() -> Settings {
    let average = Average { decay: 0.9, warm_up: WarmUp::Ratio };
    Settings { clip: Some(1.0), average: Some(average), ..Settings::new(Rate::Constant { rate: 1e-2, warm_up: 0 }) }
}

fn step<'a>(model: &'a Toy, settings: Settings) -> Step<'a> {
    let trainable = Trainable::new(model, |_| true).unwrap();
    Step::new(trainable, Adam::decoupled(0.01), settings, loss(model)).unwrap()
}

/// The state after so many steps, and the last report.
fn run(model: &Toy, settings: Settings, seed: u64, steps: u64) -> (State, Report) {
    let mut step = step(model, settings);
    let mut state = State::begin(&step, seed).unwrap();
    let mut report = None;
    for number in 0..steps {
        report = Some(step.run(&mut state, &[batch(8, number)]).unwrap());
    }
    (state, report.unwrap())
}

#[test]
fn no_gradient_is_zero() {
    let model = Toy::new(1);
    let trainable = Trainable::new(&model, |_| true).unwrap();
    let (batch, key) = (batch(8, 0), random::key(0).unwrap());
    let (_, gradients) = trainable.value_and_grad(&trainable.values(), || measure(&model, &batch, &key)).unwrap();
    assert!(gradients.keys().eq(params(&model).keys()));
    for (path, gradient) in gradients {
        assert!(math::read::<f32>(&gradient).unwrap().iter().any(|x| x.abs() > 1e-7), "{path}");
    }
}

#[test]
fn a_compiled_step_is_the_step() {
    let model = Toy::new(1);
    let (plain, one) = run(&model, settings(), 3, 6);
    let (compiled, other) = run(&model, Settings { compiled: true, ..settings() }, 3, 6);
    assert!(apart(&plain.leaves(), &compiled.leaves()) < 1e-4);
    assert!((one.loss - other.loss).abs() < 1e-5 && (one.norm - other.norm).abs() < 1e-4);
    assert_eq!(bits(&[("key".into(), plain.key)].into()), bits(&[("key".into(), compiled.key)].into()));
}

#[test]
fn steps_and_keys_differ() {
    let model = Toy::new(1);
    for compiled in [false, true] {
        let mut step = step(&model, Settings { compiled, ..settings() });
        let mut state = State::begin(&step, 3).unwrap();
        let same = batch(8, 0);
        let mut before = state.leaves();
        let mut levels = Vec::new();
        for _ in 0..3 {
            let report = step.run(&mut state, std::slice::from_ref(&same)).unwrap();
            let after = state.leaves();
            for (name, value) in &after {
                assert!(!value.eq_exact(&before[name]).unwrap(), "{name} stays, compiled: {compiled}");
            }
            before = after;
            levels.push(math::read::<f32>(&report.aux[0][0]).unwrap());
        }
        assert!(levels[0] != levels[1] && levels[1] != levels[2]);
        let mut other = State::begin(&step, 4).unwrap();
        let report = step.run(&mut other, &[same]).unwrap();
        assert_ne!(math::read::<f32>(&report.aux[0][0]).unwrap(), levels[0]);
    }
}

#[test]
fn a_compiled_step_follows_its_batches_and_the_parameters_that_are_not_trained() {
    let model = Toy::new(1);
    let mut step = {
        let trainable = Trainable::new(&model, |path| path.starts_with("layers")).unwrap();
        Step::new(trainable, Adam::default(), Settings { compiled: true, ..settings() }, loss(&model)).unwrap()
    };
    let begun = State::begin(&step, 3).unwrap();
    let mut losses = Vec::new();
    let mut once = |count| {
        let report = step.run(&mut begun.clone(), &[batch(count, 0)]).unwrap();
        losses.push(report.loss);
    };
    once(8);
    once(5);
    once(8);
    let bias = model.out.bias.as_ref().unwrap();
    bias.replace(Array::full::<f32>(&[2], Array::from_f32(3.0)).unwrap());
    once(8);
    assert_eq!(losses[0], losses[2]);
    assert!(losses[0] != losses[1] && (losses[0] - losses[3]).abs() > 0.5, "{losses:?}");
}

/// The mean square of the model's output: no randomness, so that batches can be cut.
fn square<'a>(model: &'a Toy) -> impl Fn(&Trainable<'a>, &Named, &Array) -> Result<Loss> + 'a {
    move |_, batch, _| {
        let output = model.forward(&batch["clean"], &batch["label"], &batch["sigma"])?;
        Ok(Loss::of(math::subtract(&output, &batch["clean"])?.square()?.mean(None)?))
    }
}

#[test]
fn two_batches_of_four_are_one_of_eight() {
    let model = Toy::new(1);
    let sigma = random::uniform::<_, f32>(0.0, 1.0, &[8], &random::key(5).unwrap()).unwrap();
    let mut whole = batch(8, 0);
    whole.insert("sigma".into(), sigma);
    let half = |start| -> Named {
        whole.iter().map(|(name, x)| (name.clone(), math::slice(x, 0, start, start + 4).unwrap())).collect()
    };
    let make = |compiled| {
        let trainable = Trainable::new(&model, |_| true).unwrap();
        Step::new(trainable, Adam::default(), Settings { compiled, ..settings() }, square(&model)).unwrap()
    };
    let once = |compiled, batches: &[Named]| {
        let mut step = make(compiled);
        let mut state = State::begin(&step, 0).unwrap();
        let report = step.run(&mut state, batches).unwrap();
        (state, report)
    };
    let (one, of_one) = once(false, &[whole.clone()]);
    for compiled in [false, true] {
        let (two, of_two) = once(compiled, &[half(0), half(4)]);
        assert!((of_one.loss - of_two.loss).abs() < 1e-6 && (of_one.norm - of_two.norm).abs() < 1e-5);
        // The first step of Adam is the sign of the gradient, so the means of gradient and square are compared.
        for slot in ["exp_avg", "exp_avg_sq"] {
            assert!(apart(&one.slots[slot], &two.slots[slot]) < 1e-4);
        }
        let (fault, _) = once(compiled, &[half(0), half(0)]);
        assert!(apart(&one.slots["exp_avg"], &fault.slots["exp_avg"]) > 1e-2);
    }
    assert!(make(false).run(&mut one.clone(), &[]).is_err());
}

#[test]
fn accumulation_computes_one_batch_at_a_time() {
    let layers: Vec<Layer> = (0..4).map(|_| Layer::new(64, &mut Init::default()).unwrap()).collect();
    let peak = |count: i32, batches: usize, compiled| {
        let trainable = Trainable::new(&layers, |_| true).unwrap();
        let settings = Settings { compiled, ..Settings::new(Rate::Constant { rate: 1e-3, warm_up: 0 }) };
        let loss = |_: &Trainable<'_>, batch: &Named, _: &Array| {
            let x = layers.iter().try_fold(batch["x"].clone(), |x, layer| layer.forward(&x))?;
            Ok(Loss::of(x.square()?.mean(None)?))
        };
        let mut step = Step::new(trainable, Adam::default(), settings, loss).unwrap();
        let mut state = State::begin(&step, 0).unwrap();
        let one = |_| Named::from([("x".to_owned(), Array::ones::<f32>(&[count, 64]).unwrap())]);
        let batches: Vec<Named> = (0..batches).map(one).collect();
        let before = memory::active_memory().unwrap();
        memory::reset_peak_memory().unwrap();
        step.run(&mut state, &batches).unwrap();
        memory::peak_memory().unwrap() - before
    };
    for compiled in [false, true] {
        let (whole, parts) = (peak(2048, 1, compiled), peak(512, 4, compiled));
        assert!(parts * 2 < whole, "{parts} of {whole} bytes, compiled: {compiled}");
    }
}

#[test]
fn a_module_in_bf16_is_trained_in_f32() {
    let model = Toy::new(1);
    let wide = Trainable::new(&model, |_| true).unwrap();
    let kept = wide.values();
    cast(&model, Dtype::Bfloat16, |_| true).unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    let watched = |_: &Trainable<'_>, batch: &Named, key: &Array| {
        seen.borrow_mut().extend(params(&model).values().map(|param| param.dtype()));
        measure(&model, batch, key)
    };
    let trainable = Trainable::new(&model, |_| true).unwrap();
    let rate = Rate::Constant { rate: 1e-5, warm_up: 0 };
    let mut step = Step::new(trainable, Adam::default(), Settings::new(rate), watched).unwrap();
    let mut state = State::begin(&step, 1).unwrap();
    state.params = kept.clone();
    for number in 0..10 {
        step.run(&mut state, &[batch(8, number)]).unwrap();
    }
    assert!(seen.borrow().iter().all(|&dtype| dtype == Dtype::Bfloat16));
    assert!(state.leaves().iter().all(|(name, x)| name == "key" || x.dtype() == Dtype::Float32));
    // Ten steps of 1e-5 are lost in bf16, whose numbers near 0.2 are 1e-3 apart, and add up in f32.
    let moved = math::subtract(&state.params["embed.weight"], &kept["embed.weight"]).unwrap();
    let moved = math::read::<f32>(&moved.abs().unwrap().mean(None).unwrap()).unwrap()[0];
    assert!(moved > 2e-5 && moved < 2e-4, "{moved}");
    // The gradients of bf16 are those of f32 to its rounding.
    step.trainable().assign(&state.params).unwrap();
    assert_eq!(model.embed.weight.dtype(), Dtype::Bfloat16);
    let (batch, key) = (batch(8, 0), random::key(0).unwrap());
    let at = |trainable: &Trainable<'_>| trainable.value_and_grad(&kept, || measure(&model, &batch, &key)).unwrap().1;
    let narrow = at(step.trainable());
    assert!(narrow.values().all(|gradient| gradient.dtype() == Dtype::Float32));
    cast(&model, Dtype::Float32, |_| true).unwrap();
    let wide = at(step.trainable());
    let difference = apart(&wide, &narrow);
    assert!(difference > 1e-4 && difference < 0.1, "{difference}");
}

#[test]
fn a_step_that_is_not_finite_changes_nothing() {
    let model = Toy::new(1);
    for compiled in [false, true] {
        let mut step = step(&model, Settings { compiled, ..settings() });
        let mut state = State::begin(&step, 3).unwrap();
        step.run(&mut state, &[batch(8, 0)]).unwrap();
        let (before, number) = (bits(&state.leaves()), state.step);
        let mut broken = batch(8, 1);
        broken.insert("clean".into(), Array::full::<f32>(&[8, 2], Array::from_f32(f32::NAN)).unwrap());
        let error = step.run(&mut state, &[broken]).unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }) && error.to_string().contains("step 2"), "{error}");
        assert_eq!((bits(&state.leaves()), state.step), (before, number));
        step.run(&mut state, &[batch(8, 1)]).unwrap();
    }
}

#[test]
fn errors_and_panics_come_out_as_they_were_and_leave_the_module_as_it_was() {
    let model = Toy::new(1);
    let before = bits(&Trainable::new(&model, |_| true).unwrap().values());
    for compiled in [false, true] {
        let mut step = step(&model, Settings { compiled, ..settings() });
        let mut state = State::begin(&step, 3).unwrap();
        let mut broken = batch(8, 1);
        broken.insert("label".into(), Array::ones::<f32>(&[8, 3]).unwrap());
        let error = step.run(&mut state, &[broken]).unwrap_err();
        assert!(matches!(&error, Error::At { path, .. } if path == "embed"), "{error:?}");
        step.run(&mut state, &[batch(8, 1)]).unwrap();

        let trainable = Trainable::new(&model, |_| true).unwrap();
        let failing = |_: &Trainable<'_>, _: &Named, _: &Array| -> Result<Loss> { panic!("inside") };
        let mut step = Step::new(trainable, Adam::default(), Settings { compiled, ..settings() }, failing).unwrap();
        let mut state = State::begin(&step, 3).unwrap();
        let run = std::panic::AssertUnwindSafe(|| step.run(&mut state, &[batch(8, 1)]));
        let panic = std::panic::catch_unwind(run).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"inside"));

        let trainable = Trainable::new(&model, |_| true).unwrap();
        let cancelled = |_: &Trainable<'_>, _: &Named, _: &Array| -> Result<Loss> { Err(Error::Cancelled) };
        let mut step = Step::new(trainable, Adam::default(), Settings { compiled, ..settings() }, cancelled).unwrap();
        assert!(matches!(step.run(&mut state, &[batch(8, 1)]), Err(Error::Cancelled)));
        assert_eq!(state.step, 0);
    }
    assert_eq!(bits(&Trainable::new(&model, |_| true).unwrap().values()), before);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let mut model = Toy::new(1);
    assert!(Trainable::new(&model, |_| false).is_err());
    let trainable = Trainable::new(&model, |_| true).unwrap();
    let vector = || Ok(Loss::of(Array::ones::<f32>(&[2])?));
    let error = trainable.value_and_grad(&trainable.values(), vector).unwrap_err();
    assert!(error.to_string().contains("reduce it to a scalar"), "{error}");
    let mut values = trainable.values();
    let weight = values.remove("out.weight").unwrap();
    assert!(trainable.assign(&values).unwrap_err().to_string().contains("out.weight"));
    values.insert("out.weight".into(), weight.transpose().unwrap());
    assert!(trainable.assign(&values).unwrap_err().to_string().contains("shape"));
    values.insert("out.wait".into(), weight);
    assert!(trainable.assign(&values).unwrap_err().to_string().contains("out.wait"));
    for settings in [
        Settings { clip: Some(0.0), ..settings() },
        Settings { average: Some(Average { decay: 1.0, warm_up: WarmUp::None }), ..settings() },
        Settings::new(Rate::Constant { rate: f64::NAN, warm_up: 0 }),
    ] {
        let trainable = Trainable::new(&model, |_| true).unwrap();
        assert!(Step::new(trainable, Adam::default(), settings, loss(&model)).is_err());
    }
    let text =
        r#"{"rate": {"kind": "constant", "rate": 0.1}, "clip": 1.0, "average": {"decay": 0.99}, "compiled": true}"#;
    assert_eq!(serde_json::from_str::<Settings>(text).unwrap().clip, Some(1.0));
    drop(trainable);
    model.layers.clear();
    let mut wide = Linear::new(64, 2, true, &mut Init::default()).unwrap();
    wide.weight.quantise(64, 4).unwrap();
    for path in ["weight", "scales"] {
        assert!(Trainable::new(&wide, |own| own == path).err().unwrap().to_string().contains("packed"));
    }
    assert!(Trainable::new(&wide, |own| own == "bias").is_ok());
}

/// A stack whose blocks may be computed again.
struct Deep {
    layers: Vec<Layer>,
    cond: Linear,
}
module! { impl[] Deep { layers, cond } }

impl Deep {
    fn new(depth: usize, width: i32) -> Self {
        let mut init = Init::default();
        let layers = (0..depth).map(|_| Layer::new(width, &mut init).unwrap()).collect();
        Self { layers, cond: Linear::new(width, width, true, &mut init).unwrap() }
    }

    fn loss<'a>(&'a self, trainable: &Trainable<'a>, x: &Array, again: bool) -> Result<Loss> {
        let cond = call!(self.cond.forward(x))?;
        let block =
            |layer: &Layer, inputs: &[Array]| Ok(vec![math::multiply(&layer.forward(&inputs[0])?, &inputs[1])?]);
        let mut x = x.clone();
        for layer in &self.layers {
            let inputs = [x, cond.clone()];
            x = if again { trainable.recompute(layer, &inputs, block)? } else { block(layer, &inputs)? }.remove(0);
        }
        Ok(Loss::of(x.square()?.mean(None)?))
    }
}

#[test]
fn a_block_computed_again_has_the_same_gradient() {
    let model = Deep::new(3, 8);
    let x = random::normal::<f32>(&[5, 8], None, None, &random::key(1).unwrap()).unwrap();
    for select in [|_: &str| true, |path: &str| path.contains("norm") || path.contains("cond")] {
        let trainable = Trainable::new(&model, select).unwrap();
        let gradients = |again| {
            let run = || model.loss(&trainable, &x, again);
            trainable.value_and_grad(&trainable.values(), run).unwrap()
        };
        let ((plain, one), (again, other)) = (gradients(false), gradients(true));
        assert!(apart(&one, &other) < 1e-5);
        assert_eq!(math::read::<f32>(&plain.value).unwrap(), math::read::<f32>(&again.value).unwrap());
        for (path, gradient) in other {
            assert!(math::read::<f32>(&gradient).unwrap().iter().any(|x| x.abs() > 1e-9), "{path}");
        }
        // Outside of a gradient it is a plain call.
        assert!(math::is_finite(&model.loss(&trainable, &x, true).unwrap().value).unwrap());
    }
}

#[test]
fn blocks_computed_again_take_less_memory_also_in_a_compiled_step() {
    let model = Deep::new(24, 32);
    let x = random::normal::<f32>(&[4096, 32], None, None, &random::key(1).unwrap()).unwrap();
    x.eval().unwrap();
    let run = |again, compiled| {
        let trainable = Trainable::new(&model, |_| true).unwrap();
        let settings = Settings { compiled, ..Settings::new(Rate::Constant { rate: 1e-3, warm_up: 0 }) };
        let mut step = Step::new(trainable, Adam::default(), settings, deep(&model, again)).unwrap();
        let mut state = State::begin(&step, 0).unwrap();
        let before = memory::active_memory().unwrap();
        memory::reset_peak_memory().unwrap();
        let batches = [Named::from([("x".to_owned(), x.clone())])];
        // The device is not far behind, so that what is measured is the order of computation.
        bounded(1 << 20, || step.run(&mut state, &batches).unwrap()).unwrap();
        (memory::peak_memory().unwrap() - before, state)
    };
    for compiled in [false, true] {
        let ((plain, one), (again, other)) = (run(false, compiled), run(true, compiled));
        assert!(again * 3 < plain, "{again} of {plain} bytes, compiled: {compiled}");
        assert!(apart(&one.slots["exp_avg"], &other.slots["exp_avg"]) < 1e-4);
    }
}

fn deep<'a>(model: &'a Deep, again: bool) -> impl Fn(&Trainable<'a>, &Named, &Array) -> Result<Loss> + 'a {
    move |trainable, batch, _| model.loss(trainable, &batch["x"], again)
}

#[test]
fn an_error_in_a_block_computed_again_keeps_its_type() {
    let model = Deep::new(1, 8);
    let trainable = Trainable::new(&model, |_| true).unwrap();
    let x = Array::ones::<f32>(&[2, 8]).unwrap();
    let fail = |f: fn(&Layer, &[Array]) -> Result<Vec<Array>>| {
        let run = || {
            let y = trainable.recompute(&model.layers[0], std::slice::from_ref(&x), f)?.remove(0);
            Ok(Loss::of(y.sum(None)?))
        };
        trainable.value_and_grad(&trainable.values(), run).unwrap_err()
    };
    assert!(matches!(fail(|_, _| Err(Error::Cancelled)), Error::Cancelled));
    let error = fail(|layer, inputs| Ok(vec![layer.forward(&math::slice(&inputs[0], 1, 0, 3)?)?]));
    assert!(matches!(error, Error::At { .. } | Error::Mlx(_)), "{error:?}");
    assert!(trainable.values().values().all(|value| math::is_finite(value).unwrap()));
}

#[test]
fn a_step_is_what_its_parts_do_one_after_the_other() {
    let model = Toy::new(1);
    let rate = Rate::Linear { rate: 1e-2, warm_up: 2, steps: 8, last: 1e-3 };
    let mut step = step(&model, Settings { rate, ..settings() });
    let mut state = State::begin(&step, 3).unwrap();
    let adam = Adam::decoupled(0.01);
    let (mut params, mut slots, mut average) = (state.params.clone(), state.slots.clone(), state.params.clone());
    let mut key = state.key.clone();
    for done in 0..4 {
        let batch = batch(8, done);
        let (next, own) = random::split(&key, 2).unwrap();
        key = next;
        let measured = || measure(&model, &batch, &own);
        let (value, gradients) = step.trainable().value_and_grad(&params, measured).unwrap();
        let norm = global_norm(&gradients).unwrap();
        let coefficients = adam.coefficients(done + 1, rate.at(done));
        let coefficients: Vec<Array> = coefficients.into_iter().map(|c| Array::from_f32(c as f32)).collect();
        for (path, gradient) in clipped(&gradients, &norm, 1.0).unwrap() {
            let own = ["exp_avg", "exp_avg_sq"].map(|slot| slots[slot][&path].clone());
            let (new, kept) = adam.update(&path, &params[&path], &gradient, &own, &coefficients).unwrap();
            for (slot, value) in ["exp_avg", "exp_avg_sq"].into_iter().zip(kept) {
                slots.get_mut(slot).unwrap().insert(path.clone(), value);
            }
            let decay = [0.0, 2.0 / 11.0, 3.0 / 12.0, 4.0 / 13.0][done as usize];
            let old = math::scaled(&average[&path], decay).unwrap();
            average.insert(path.clone(), math::add(&old, &math::scaled(&new, 1.0 - decay).unwrap()).unwrap());
            params.insert(path, new);
        }
        let report = step.run(&mut state, &[batch]).unwrap();
        assert_eq!((report.step, report.rate), (done + 1, rate.at(done)));
        let value = math::read::<f32>(&value.value).unwrap()[0];
        assert!((report.loss - f64::from(value)).abs() < 1e-6);
    }
    assert!(apart(&state.params, &params) < 1e-6 && apart(&state.average, &average) < 1e-5);
    assert!(apart(&state.slots["exp_avg_sq"], &slots["exp_avg_sq"]) < 1e-6);
    assert!(state.key.eq_exact(&key).unwrap());
}

#[test]
fn a_block_is_not_computed_again_after_its_gradient() {
    let model = Deep::new(1, 8);
    let trainable = Trainable::new(&model, |_| true).unwrap();
    let outer = |x: &[Array]| -> Result<Vec<Array>, mlx_rs::error::Exception> {
        let inner = trainable.value_and_grad(&trainable.values(), || model.loss(&trainable, &x[0], true));
        Ok(vec![inner.unwrap().0.value])
    };
    let error = mlx_rs::transforms::value_and_grad(outer)(&[Array::ones::<f32>(&[2, 8]).unwrap()]);
    assert!(error.is_err());
    // The next gradient is as usual.
    let run = || model.loss(&trainable, &Array::ones::<f32>(&[2, 8])?, true);
    trainable.value_and_grad(&trainable.values(), run).unwrap();
}

/// Two small matrices beside a large one (<https://arxiv.org/abs/2106.09685>).
struct Lora {
    a: Param,
    b: Param,
}
module! { impl[] Lora { a, b } }

impl Adapter for Lora {
    fn apply(&self, x: &Array, y: Array, _: Option<&Route>) -> Result<Array> {
        math::add(&y, &x.matmul(self.a.get())?.matmul(self.b.get())?)
    }
}

#[test]
fn adapters_of_packed_layers_are_trained_also_in_blocks_computed_again() {
    let mut model = Deep::new(2, 32);
    let mut init = Init::new(Dtype::Float32, 9);
    framework::on_linears(&mut model, |_, linear| {
        let [rows, columns] = linear.weight.shape()[..] else { panic!("a matrix has two axes") };
        let lora = Lora { a: init.normal(&[columns, 2], 0.1)?, b: init.normal(&[2, rows], 0.1)? };
        linear.adapters.insert("style".into(), Box::new(lora));
        linear.weight.quantise(32, 4)
    })
    .unwrap();
    let x = random::normal::<f32>(&[16, 32], None, None, &random::key(1).unwrap()).unwrap();
    let batches = [Named::from([("x".to_owned(), x)])];
    let before: Vec<Array> = params(&model).values().map(|param| param.get()).collect();
    let run = |again, compiled| {
        let trainable = Trainable::new(&model, |path| path.contains("style")).unwrap();
        let settings = Settings { compiled, ..settings() };
        let mut step = Step::new(trainable, Adam::default(), settings, deep(&model, again)).unwrap();
        let mut state = State::begin(&step, 0).unwrap();
        let losses: Vec<f64> = (0..20).map(|_| step.run(&mut state, &batches).unwrap().loss).collect();
        assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
        state
    };
    let plain = run(false, false);
    assert_eq!(plain.params.len(), 2 * 5);
    assert!(apart(&plain.params, &run(true, true).params) < 1e-2);
    assert!(params(&model).values().zip(&before).all(|(param, before)| param.get().eq_exact(before).unwrap()));
}

#[test]
fn a_state_of_another_step_is_refused() {
    let model = Toy::new(1);
    for compiled in [false, true] {
        let mut own = step(&model, Settings { compiled, ..settings() });
        let mut state = State::begin(&own, 3).unwrap();
        own.run(&mut state, &[batch(8, 0)]).unwrap();
        let mut other = State { average: Named::new(), ..state.clone() };
        assert!(own.run(&mut other, &[batch(8, 0)]).unwrap_err().to_string().contains("average"));
        let mut other = state.clone();
        let weight = other.params.remove("out.weight").unwrap();
        other.params.insert("out.wait".into(), weight);
        assert!(own.run(&mut other, &[batch(8, 0)]).unwrap_err().to_string().contains("out.wait"));
        let mut other = state.clone();
        other.slots.clear();
        assert!(own.run(&mut other, &[batch(8, 0)]).unwrap_err().to_string().contains("exp_avg"));
        own.run(&mut state, &[batch(8, 0)]).unwrap();
    }
}

#[test]
fn clipping_is_what_the_optimiser_sees() {
    let model = Toy::new(1);
    let free = run(&model, Settings { clip: None, ..settings() }, 3, 1);
    let bound = run(&model, Settings { clip: Some(1e-2), ..settings() }, 3, 1);
    assert_eq!(free.1.norm, bound.1.norm);
    let norm = Array::from_f32(free.1.norm as f32);
    let expected = clipped(&free.0.slots["exp_avg"], &norm, 1e-2).unwrap();
    assert!(apart(&expected, &bound.0.slots["exp_avg"]) < 1e-5);
    assert!(apart(&free.0.slots["exp_avg"], &bound.0.slots["exp_avg"]) > 0.5);
}

#[test]
fn two_hundred_steps_learn_the_task() {
    let model = Toy::new(2);
    let rate = Rate::Cosine { rate: 1e-2, warm_up: 10, steps: 200, last: 0.0 };
    let mut step = step(&model, Settings { rate, clip: Some(5.0), compiled: true, ..settings() });
    let mut state = State::begin(&step, 7).unwrap();
    let losses: Vec<f64> = (0..200).map(|number| step.run(&mut state, &[batch(64, number)]).unwrap().loss).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..10]), mean(&losses[190..]));
    assert!(last < 0.25 * first, "from {first} to {last}");
    // The average of the parameters has learned it too.
    step.trainable().assign(&state.average).unwrap();
    let (batch, key) = (batch(256, 1000), random::key(9).unwrap());
    let value = measure(&model, &batch, &key).unwrap().value;
    let value = math::read::<f32>(&value).unwrap()[0];
    assert!(f64::from(value) < 0.25 * first, "{value}");
}
