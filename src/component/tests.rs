use proptest::prelude::*;

use super::*;

fn heads() -> impl Strategy<Value = Head> {
    (any::<usize>(), 0..100_usize).prop_map(|(layer, head)| Head { layer, head })
}

fn components() -> impl Strategy<Value = Component> {
    let single = prop::sample::select(SINGLE.to_vec()).prop_map(|(_, one)| one);
    let of_layer = (prop::sample::select(OF_LAYER.to_vec()), any::<usize>())
        .prop_map(|((_, of), layer)| of(layer));
    let neuron = (0..100_usize, any::<usize>()).prop_map(|(l, n)| Component::Neuron(l, n));
    prop_oneof![single, of_layer, neuron, heads().prop_map(Component::Head)]
}

/// Through text and through JSON.
fn there_and_back<T>(one: &T)
where
    T: fmt::Display + FromStr<Err = Error> + serde::Serialize + serde::de::DeserializeOwned,
    T: PartialEq + fmt::Debug,
{
    let text = one.to_string();
    assert_eq!(&text.parse::<T>().unwrap(), one);
    let json = serde_json::to_string(one).unwrap();
    assert_eq!(json, format!("\"{text}\""));
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), one);
}

proptest! {
    #[test]
    fn heads_and_components_print_and_parse(head in heads(), component in components()) {
        there_and_back(&head);
        there_and_back(&component);
    }

    #[test]
    fn what_parses_prints_back(text in "(mlp|b_O|L|)[0-9+]{0,3}\\.?[0-9 H]{0,3}") {
        if let Ok(head) = text.parse::<Head>() {
            prop_assert_eq!(head.to_string(), text.clone());
        }
        if let Ok(component) = text.parse::<Component>() {
            prop_assert_eq!(component.to_string(), text);
        }
    }
}

#[test]
fn inputs_of_heads_print_and_parse() {
    Qkv::ALL.iter().for_each(there_and_back);
    assert_eq!(Qkv::K.site(), Site::K);
    assert_eq!(Qkv::V.input_site(), Site::VInput);
    let error = "Q".parse::<Qkv>().unwrap_err().to_string();
    let expected = "input of a head: found `Q`; expected `q`, `k` or `v`";
    assert_eq!(error, expected);
}

#[test]
fn what_a_model_lacks_is_an_error() {
    let config = Config::gpt2();
    let message = |component: &str| {
        let component: Component = component.parse().unwrap();
        component.check(&config).unwrap_err().to_string()
    };
    let expected = "head 3.12: head 12 is out of range; expected 0..12";
    assert_eq!(message("3.12"), expected);
    let expected = "mlp12: layer 12 is out of range; expected 0..12";
    assert_eq!(message("mlp12"), expected);
    let expected = "mlp0.3072: neuron 3072 is out of range; expected 0..3072";
    assert_eq!(message("mlp0.3072"), expected);
    assert!("b_U".parse::<Component>().unwrap().check(&config).is_ok());
}
